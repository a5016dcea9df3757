/** Reads server-sent events: the names of the events of a stream, as they come. Data and comments are not kept. */

/** Longer than any line that the control plane sends; more is somebody else's stream. */
const LINE_CHARACTERS_MAX = 64 * 1024;

export interface SentEvent {
  event: string;
  data: string;
}

/** Throws when the stream breaks, or a line has no end. */
export async function* sentEvents(chunks: AsyncIterable<Uint8Array>): AsyncGenerator<SentEvent> {
  const decoder = new TextDecoder();
  let text = '';
  let event = '';
  let data: string[] = [];
  for await (const chunk of chunks) {
    text += decoder.decode(chunk, { stream: true });
    // A lone CR at the end may be the first half of a CR LF: it waits for the next chunk.
    for (let match = /\r\n|\n|\r(?!$)/.exec(text); match; match = /\r\n|\n|\r(?!$)/.exec(text)) {
      const line = text.slice(0, match.index);
      text = text.slice(match.index + match[0].length);
      if (line === '') {
        if (event !== '' || data.length > 0) yield { event: event || 'message', data: data.join('\n') };
        event = '';
        data = [];
      } else {
        const [, name, value] = /^([^:]*):? ?(.*)$/s.exec(line)!;
        if (name === 'event') event = value!;
        else if (name === 'data') data.push(value!);
      }
    }
    if (text.length > LINE_CHARACTERS_MAX) throw new Error('a line of the event stream has no end');
  }
}
