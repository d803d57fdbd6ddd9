/** What JSON.parse does not do: notice a key that occurs twice, and say which file is wrong. Imports lib/errors alone. */
import { readFile } from 'node:fs/promises'
import { InputError } from './errors.js'

/** The first key that occurs twice in the same object of a *valid* JSON text. JSON.parse would silently keep the last one. */
export function duplicateKey(text: string): string | undefined {
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

/** Reads a JSON file that holds an object. `missing` is the advice for a file that is not there. */
export async function readJsonObject(path: string, missing = ''): Promise<Record<string, unknown>> {
  let text: string
  try {
    text = await readFile(path, 'utf8')
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code
    if (code === 'ENOENT' || code === 'ENOTDIR') throw new InputError(`${path}: no such file${missing ? `; ${missing}` : ''}.`, { cause: error })
    throw new InputError(`${path}: cannot be read (${code}).`, { cause: error })
  }
  let value: unknown
  try {
    value = JSON.parse(text.replace(/^\uFEFF/, ''))
  } catch (error) {
    throw new InputError(`${path}: not JSON: ${(error as Error).message.replace(/\s+/g, ' ')}.`, { cause: error })
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new InputError(`${path}: expected a JSON object, but it holds ${Array.isArray(value) ? 'a list' : String(value)}.`)
  }
  return value as Record<string, unknown>
}
