/** The machine, the versions and the commit that a result belongs to. */
import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { arch, cpus, loadavg, release, totalmem, type as system } from 'node:os'
import { versions } from 'node:process'
import { fileURLToPath } from 'node:url'
import { native } from '../lib/native.js'
import type { Result } from './record.js'

const root = fileURLToPath(new URL('..', import.meta.url))
const read = (path: string): string | null => (existsSync(path) ? readFileSync(path, 'utf8').trim() : null)

function git(...args: string[]): string | null {
  const { status, stdout } = spawnSync('git', args, { cwd: root, encoding: 'utf8' })
  return status === 0 ? stdout.trim() : null
}

/** The instruction sets that the CPU backend knows, the widest first, and what MT_CPU leaves out of them. */
const SETS = ['amx_bf16', 'avx512_bf16', 'avx512f', 'avx2']
const LEFT_OUT: Record<string, number> = { avx512: 1, avx2: 3, portable: SETS.length }

/** The widest of them that is used here. */
function isa(): string {
  const flags = /^flags\s*:(.*)$/m.exec(read('/proc/cpuinfo') ?? '')?.[1]?.split(' ') ?? []
  const known = SETS.slice(LEFT_OUT[process.env.MT_CPU ?? ''] ?? 0).find((f) => flags.includes(f))
  return known ?? arch()
}

export function machine(): Result['machine'] {
  const [first] = cpus()
  return {
    cpu: first?.model.trim() || arch(),
    cores: cpus().length,
    memory: totalmem(),
    system: `${system()} ${release()} ${arch()}`,
    isa: isa(),
    hugePages: /\[(\w+)\]/.exec(read('/sys/kernel/mm/transparent_hugepage/enabled') ?? '')?.[1] ?? null,
  }
}

/** A name for files: of the processor, or of the device. */
export const slug = (name: string): string =>
  name
    .toLowerCase()
    .replace(/\((r|tm)\)/g, '')
    .replace(/[^a-z0-9]+/g, '-')
    .replace(/^-|-$/g, '')

export const commit = (): Pick<Result, 'commit' | 'changed'> => {
  const head = git('rev-parse', 'HEAD')
  // Results and generated pages do not count as changed sources.
  return {
    commit: head,
    changed: head === null ? null : git('status', '--porcelain', '--', '.', ':!bench/results', ':!docs') !== '',
  }
}

export function softwareVersions(): Record<string, string> {
  const { version } = JSON.parse(readFileSync(`${root}package.json`, 'utf8')) as { version: string }
  return {
    mtransllama: version,
    node: versions.node,
    v8: versions.v8,
    ...(native().devices().built && { cuda: native().devices().architectures }),
  }
}

export const load = (): number => loadavg()[0]!
