# A run's events on disk: one JSON object a line, numbered once (docs/formats/run-events-v1.md). The run itself writes them, so
# that neither the daemon's death nor the runner's loses one; the daemon is only told how far the file has grown.
#
# A line is one write(2) to a file opened for appending: it is there whole, or, on a full disk, cut off again. What cannot be
# written is counted and told in the `end` event. Nothing here may make a run fail.

require 'json'
require 'monitor'
require 'time'

class EventFile
  # Stays below the control plane's EVENT_BYTES_MAX.
  EVENT_BYTES_MAX = 900 * 1024
  # What remains of a long text in an event that is too large.
  TEXT_BYTES_MAX = 16 * 1024

  attr_reader :dropped

  # @param path [String] the file; the daemon has written the `start` event into it
  # @param sequence [Integer] the first number to give
  # @param bytes_max [Integer] past this size only failures, changes and the end are written
  # @yield [Integer] the file's size after each event
  def initialize(path, sequence, bytes_max, &grown)
    @file = File.open(path, File::WRONLY | File::APPEND)
    @file.sync = true
    @size = @file.size
    @sequence = sequence
    @bytes_max = bytes_max
    @grown = grown
    @dropped = 0
    @lock = Monitor.new
  end

  # @param weighty [Boolean] whether the event is worth a place when the file is past its bound
  def append(kind, data, weighty: false)
    @lock.synchronize do
      return drop if @size > @bytes_max && !weighty

      line = render('sequence' => @sequence, 'at' => Time.now.utc.iso8601(6), 'kind' => kind, 'data' => data)
      return drop unless write(line)

      @size += line.bytesize
      @sequence += 1
      @grown.call(@size)
    end
  end

  private

  def drop
    @dropped += 1
    false
  end

  def write(line)
    return true if @file.syswrite(line) == line.bytesize

    @file.truncate(@size)
    false
  rescue SystemCallError
    begin
      @file.truncate(@size)
    rescue SystemCallError
      nil # The reader takes whole lines only.
    end
    false
  end

  def render(event)
    line = begin
      "#{JSON.generate(event)}\n"
    rescue JSON::GeneratorError, EncodingError
      "#{JSON.generate(plain(event, nil))}\n"
    end
    line.bytesize > EVENT_BYTES_MAX ? "#{JSON.generate(plain(event.merge('cut' => true), TEXT_BYTES_MAX))}\n" : line
  end

  # The same as plain JSON can hold: valid UTF-8, finite numbers, texts and lists of a bounded size.
  def plain(value, bytes_max)
    case value
    when Hash then value.first(bytes_max ? 100 : value.size).to_h { |key, inner| [plain(key.to_s, bytes_max), plain(inner, bytes_max)] }
    when Array then value.first(bytes_max ? 100 : value.size).map { |inner| plain(inner, bytes_max) }
    when Float then value.finite? ? value : value.to_s
    when Integer, true, false, nil then value
    else
      text = value.to_s.dup
      text = text.force_encoding(Encoding::UTF_8) if text.encoding == Encoding::BINARY
      text = text.encode(Encoding::UTF_8, invalid: :replace, undef: :replace).scrub
      bytes_max && text.bytesize > bytes_max ? "#{text.byteslice(0, bytes_max).scrub('')}…" : text
    end
  end
end
