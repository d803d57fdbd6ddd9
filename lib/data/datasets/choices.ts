/** Multiple choice as VideoChat2's and MVBench's files write it. */

/** `(B) down` or `Answer: (B) down` as its letter and text. */
export function option(line: string): { letter: string; text: string } | undefined {
  const [, letter, text] = /^(?:Answer:\s*)?\(([A-Z])\)\s*(.*)$/s.exec(line.trim()) ?? []
  return letter === undefined ? undefined : { letter, text: text!.trim() }
}

/** A question with lines of options below. */
export function question(text: string): { question: string; texts: string[] } {
  const lines = text.split('\n')
  const first = lines.findIndex((line) => option(line) !== undefined)
  const options = lines.flatMap((line) => option(line) ?? [])
  const asked = lines.slice(0, first < 0 ? lines.length : first).filter((line) => !/^\s*options?:\s*$/i.test(line))
  const inOrder = options.every(({ letter }, i) => letter === letterOf(i))
  return {
    question: asked
      .join('\n')
      .replace(/^\s*Question:\s*/, '')
      .trim(),
    texts: inOrder ? options.map((o) => o.text) : [],
  }
}

/** A, B, C … */
export const letterOf = (place: number): string => String.fromCharCode(65 + place)
