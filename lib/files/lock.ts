/** A lock on a folder: one process at a time writes into it. */
import { readFileSync } from 'node:fs'
import * as fs from 'node:fs/promises'
import { hostname } from 'node:os'
import { InputError } from '../errors.js'
import { alive } from './folder.js'

/** Names a process beyond its number, which is given out again; empty where the system does not tell. */
function born(pid: number): string {
  try {
    const boot = readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim()
    return `${boot} ${readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]!.split(' ')[19]}`
  } catch {
    return ''
  }
}

/** The holder of a lock file, if it still runs; on another machine that is not known, and it counts as running. */
async function holder(path: string): Promise<{ pid: number; host: string } | undefined> {
  try {
    const { pid, host, start } = JSON.parse(await fs.readFile(path, 'utf8')) as Record<string, unknown>
    if (typeof pid !== 'number' || typeof host !== 'string') return undefined
    if (host === hostname() && (!alive(pid) || (start !== '' && born(pid) !== start))) return undefined
    return { pid, host }
  } catch {
    return undefined // gone, or cut when the machine stopped
  }
}

/**
 * Locks a folder by a file in it. The lock of a process that was killed does not count.
 *
 * @returns removes the lock
 * @throws InputError where another run holds it
 */
export async function lock(path: string, what: string): Promise<() => Promise<void>> {
  const text = JSON.stringify({ pid: process.pid, host: hostname(), start: born(process.pid) })
  for (let attempt = 0; ; attempt++) {
    try {
      await fs.writeFile(path, text, { flag: 'wx' })
      return () => fs.rm(path, { force: true })
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
      const by = await holder(path)
      if (by || attempt > 2)
        throw new InputError(
          `${what} is in use${by ? ` by process ${by.pid} on ${by.host}` : ''}; wait for it, or choose another folder (where no such process runs, delete ${path}).`,
        )
      await fs.rm(path, { force: true })
    }
  }
}
