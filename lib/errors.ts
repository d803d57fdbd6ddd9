/**
 * Errors are part of the interface. A message is one sentence: the name, what was expected, the value, and what to do.
 */

/** Bad input from a caller or a file: everything that a user can correct. */
export class InputError extends Error {
  override name = 'InputError'
}

/** Shows a value in an error message, in at most 120 characters and on one line. */
export function show(value: unknown): string {
  let text: string
  if (typeof value === 'string') text = JSON.stringify(value)
  else if (typeof value === 'bigint') text = `${value}n`
  else if (typeof value === 'number') text = `${value}`
  else if (typeof value === 'function') text = `function ${value.name || '(anonymous)'}`
  else if (ArrayBuffer.isView(value))
    text = `${value.constructor.name}(${(value as Uint8Array).length ?? value.byteLength})`
  else if (value instanceof Error) text = value.message
  else {
    try {
      // JSON writes null for numbers that are not finite
      text =
        JSON.stringify(value, (_, v: unknown) => (Number.isFinite(v) || typeof v !== 'number' ? v : `${v}`)) ??
        String(value)
    } catch {
      text = Object.prototype.toString.call(value)
    }
  }
  text = text.replace(/\s*\n\s*/g, ' ')
  return text.length > 120 ? `${text.slice(0, 117)}...` : text
}

/**
 * The error for a wrong argument: `name: expected EXPECTED, but got ACTUAL; HINT.`
 *
 * @param name the argument, key, file or tensor that is wrong
 * @param expected what would have been right
 * @param actual the value itself (shown shortened)
 * @param hint what the reader can do about it, if that is not obvious
 */
export function invalid(name: string, expected: string, actual: unknown, hint?: string): InputError {
  return new InputError(`${name}: expected ${expected}, but got ${show(actual)}${hint ? `; ${hint}` : ''}.`)
}

/** The candidate nearest to `word` by edit distance, if it is near enough to be a typing mistake. */
export function nearest(word: string, candidates: Iterable<string>): string | undefined {
  let best: string | undefined
  let least = Math.max(2, Math.floor(word.length / 3)) + 1
  for (const candidate of candidates) {
    const d = distance(word.toLowerCase(), candidate.toLowerCase())
    if (d < least) [best, least] = [candidate, d]
  }
  return best
}

/** Levenshtein distance, one row at a time. */
function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j)
  for (let i = 1; i <= a.length; i++) {
    const next = [i]
    for (let j = 1; j <= b.length; j++) {
      next[j] = Math.min(next[j - 1]! + 1, row[j]! + 1, row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1))
    }
    row = next
  }
  return row[b.length]!
}
