/**
 * What may be read of folders that the server was given: clips, and the logs of training runs. A client names an entry
 * of the list; the path is found by that list, so that no text of a client becomes a path. Links that lead out of the
 * folder are not followed.
 */
import { open, readdir, realpath, stat } from 'node:fs/promises'
import { basename, join, resolve, sep } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { invalid } from '../errors.js'
import { Refusal } from './refusal.js'

/** Most entries that are listed. */
const MOST = 1000
const VIDEO = /\.(mp4|m4v|mov|mkv|webm|avi|mpe?g|ts|m2ts|ogv|flv|wmv|gif)$/i
/** A training run's log. */
const LOG = 'metrics.jsonl'

/** The real path of a folder that the server is given. @throws InputError where there is none */
export async function givenFolder(option: string, folder: string): Promise<string> {
  try {
    const path = await realpath(folder)
    await readdir(path)
    return path
  } catch (error) {
    throw invalid(option, 'a folder that can be read', error)
  }
}

/** Entries of a folder by name, each with its real path inside of that folder. */
async function entries(folder: string, wanted: (name: string) => string | undefined): Promise<Map<string, string>> {
  const found = new Map<string, string>()
  const names = await readdir(folder).catch(() => [])
  const { compare } = new Intl.Collator('en', { numeric: true })
  for (const name of names.sort(compare)) {
    const file = wanted(name)
    if (file === undefined || found.size >= MOST) continue
    const path = await realpath(join(folder, file)).catch(() => undefined)
    if (path?.startsWith(folder + sep) && (await stat(path)).isFile()) found.set(name, path)
  }
  return found
}

function named(found: Map<string, string>, what: string, name: string): string {
  const path = found.get(name)
  if (path === undefined)
    throw new Refusal(404, `There is no ${what} named ${JSON.stringify(name.slice(0, 80))} here.`, {
      code: 'not_found',
    })
  return path
}

/** The videos of a folder. */
export class Clips {
  constructor(readonly folder: string) {}
  async list(): Promise<string[]> {
    return [...(await this.#all()).keys()]
  }
  /** @throws Refusal 404 */
  async path(name: string): Promise<string> {
    return named(await this.#all(), 'clip', name)
  }
  #all(): Promise<Map<string, string>> {
    return entries(this.folder, (name) => (VIDEO.test(name) && !name.startsWith('.') ? name : undefined))
  }
}

/** New lines of a log. */
export interface Lines {
  /** Each a JSON value; a line that is none is left out. */
  lines: unknown[]
  /** Where to go on, in bytes. */
  next: number
  /** The log was begun anew: these lines are its first, and earlier ones no longer count. */
  reset: boolean
}

/** Bytes read at a time. */
const PIECE = 1 << 20

/** The training runs of a folder: its own log, and those of the folders in it. */
export class Runs {
  /** @param interval milliseconds between two looks at a log that is followed */
  constructor(
    readonly folder: string,
    readonly interval = 500,
  ) {}

  /** Names, and when something was logged last, in milliseconds since 1970; the latest first. */
  async list(): Promise<{ name: string; changed: number }[]> {
    const all = await this.#all()
    const listed = await Promise.all(
      [...all].map(async ([name, path]) => ({ name, changed: (await stat(path)).mtimeMs })),
    )
    return listed.sort((a, b) => b.changed - a.changed)
  }

  async #all(): Promise<Map<string, string>> {
    const own = await entries(this.folder, (name) => (name === LOG ? name : undefined))
    const inner = await entries(this.folder, (name) => (name.startsWith('.') ? undefined : join(name, LOG)))
    return new Map([
      ...[...own.values()].map((path): [string, string] => [basename(resolve(this.folder)), path]),
      ...inner,
    ])
  }

  /**
   * The lines of a run's log from a byte on, then those that come, until the signal aborts. The first item comes at
   * once, empty where nothing is there yet.
   *
   * @throws Refusal 404
   */
  async *follow(name: string, from: number, signal: AbortSignal): AsyncGenerator<Lines, void> {
    const path = named(await this.#all(), 'run', name)
    let [at, file, begun] = [from, '', false]
    while (!signal.aborted) {
      const found = await stat(path).catch(() => undefined)
      if (found) {
        const reset = found.size < at || (file !== '' && file !== `${found.ino}`)
        if (reset) at = 0
        file = `${found.ino}`
        const { lines, next } = found.size > at ? await read(path, at) : { lines: [], next: at }
        const moved = next > at
        at = next
        if (moved || reset || !begun) yield { lines, next, reset }
        begun = true
        if (moved) continue
      }
      await sleep(this.interval, undefined, { signal }).catch(() => {})
    }
  }
}

/** Whole lines from a byte on; one that is still being written is left for later. */
async function read(path: string, from: number): Promise<{ lines: unknown[]; next: number }> {
  const file = await open(path)
  try {
    const { buffer, bytesRead } = await file.read(Buffer.alloc(PIECE), 0, PIECE, from)
    const end = buffer.subarray(0, bytesRead).lastIndexOf(10) + 1
    // A line longer than a piece is none of ours; it is passed over.
    if (!end) return { lines: [], next: bytesRead === PIECE ? from + PIECE : from }
    const lines = buffer
      .toString('utf8', 0, end)
      .split('\n')
      .flatMap((line) => {
        try {
          return line ? [JSON.parse(line) as unknown] : []
        } catch {
          return []
        }
      })
    return { lines, next: from + end }
  } finally {
    await file.close()
  }
}
