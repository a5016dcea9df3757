/** The blocks of a text with this label, as they are. */
export function pemBlocks(text: string, label: string): string[] {
  return text.match(new RegExp(`-----BEGIN ${label}-----[^-]+-----END ${label}-----\\n?`, 'g')) ?? [];
}

/** One block. */
export function pem(label: string, bytes: Buffer): string {
  const lines = bytes.toString('base64').match(/.{1,64}/g) ?? [];
  return `-----BEGIN ${label}-----\n${lines.join('\n')}\n-----END ${label}-----\n`;
}

/** The bytes of one block. */
export function pemBytes(block: string): Buffer {
  return Buffer.from(block.replace(/-----[^-]+-----/g, ''), 'base64');
}
