/** JSON with two checks that JSON.parse lacks: duplicate keys, and the file and line of an error. */
import { InputError, show } from '../errors.js'
import { readText, unreadable } from './text.js'

/**
 * The first key that occurs twice in the same object of a *valid* JSON text. JSON.parse would silently keep the last
 * one.
 */
function duplicateKey(text: string): string | undefined {
  const open: (Set<string> | undefined)[] = [] // one for each bracket that is open; undefined for an array
  const token = /"(?:[^"\\]|\\.)*"|[{}[\]]/g
  for (let match = token.exec(text); match; match = token.exec(text)) {
    const what = match[0]
    if (what === '{') open.push(new Set())
    else if (what === '[') open.push(undefined)
    else if (what === '}' || what === ']') open.pop()
    else {
      const keys = open.at(-1)
      if (!keys || !followedByColon(text, token.lastIndex)) continue
      const key = JSON.parse(what) as string
      if (keys.has(key)) return key
      keys.add(key)
    }
  }
  return undefined
}

function followedByColon(text: string, at: number): boolean {
  while (text[at] === ' ' || text[at] === '\n' || text[at] === '\r' || text[at] === '\t') at++
  return text[at] === ':'
}

/** The value of a JSON text; what to throw where it is none, or where a key stands twice in one object. */
export function parseJson(text: string, broken: (error: Error) => Error, twice: (key: string) => Error): unknown {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (error) {
    throw broken(error as Error)
  }
  const key = duplicateKey(text)
  if (key !== undefined) throw twice(key)
  return value
}

/** Reads a JSON file that holds an object, each key once. `missing` is the advice for a file that is not there. */
export async function readJsonObject(path: string, missing = ''): Promise<Record<string, unknown>> {
  const text = await readText(path, (error) => unreadable(path, error, missing))
  const value = parseJson(
    text,
    (error) =>
      new InputError(
        `${path}: not JSON${lineOf(text, error)}: expected a readable JSON file, but got ${show(error)}.`,
        { cause: error },
      ),
    (key) => new InputError(`${path}: the key ${show(key)} is there twice in one object; keep one of them.`),
  )
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new InputError(
      `${path}: expected a JSON object, but it holds ${Array.isArray(value) ? 'a list' : String(value)}.`,
    )
  }
  return value as Record<string, unknown>
}

/** The line that a message of JSON.parse means, where it gives a position. */
function lineOf(text: string, { message }: Error): string {
  const at = /at position (\d+)/.exec(message)?.[1]
  return at === undefined ? '' : ` in line ${text.slice(0, Number(at)).split('\n').length}`
}
