# frozen_string_literal: true

# A text as one word of lower-case letters, digits and dashes: profile::slug('Seal Island') is 'seal-island'.
Puppet::Functions.create_function(:'profile::slug') do
  dispatch :slug do
    param 'String[1]', :text
    return_type 'Pattern[/\A[a-z0-9-]*\z/]'
  end

  def slug(text)
    text.downcase.gsub(/[^a-z0-9]+/, '-').gsub(/\A-|-\z/, '')
  end
end
