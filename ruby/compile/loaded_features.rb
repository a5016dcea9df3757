# frozen_string_literal: true

require 'fiddle'

module Callboard
  # Puppet's autoloader appends each file that it loads to $LOADED_FEATURES, and after an append by Ruby code the next `require`
  # resolves every one of some 1,000 paths anew: half of the CPU of a small compile. Ruby's own way to add a feature keeps its
  # index, so appends go that way.
  module LoadedFeatures
    module_function

    def install
      # It works on Ruby's own objects, so it must hold the lock of the interpreter.
      provide = Fiddle::Function.new(
        Fiddle::Handle::DEFAULT['rb_provide'], [Fiddle::TYPE_VOIDP], Fiddle::TYPE_VOID, need_gvl: true,
      )
      $LOADED_FEATURES.define_singleton_method(:<<) do |file|
        next super(file) unless file.ascii_only? # Ruby would take its bytes for ASCII.

        # Ruby keeps the very bytes: they stay where they are as long as the process lives.
        bytes = "#{file}\0"
        kept = Fiddle::Pointer.malloc(bytes.bytesize)
        kept[0, bytes.bytesize] = bytes
        provide.call(kept)
        self
      end
    rescue Fiddle::DLError, ArgumentError
      nil # A Ruby without it is slower, and no different otherwise.
    end
  end
end
