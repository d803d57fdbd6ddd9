// npm run docs:install: brings docs/prebuilds.json up to date with what is in prebuilds/, and writes its tables into
// docs/install.md, between the marks. Options take what other programs printed:
//   --nodes FILE  the lines of scripts/prebuild/empty-root.sh
//   --arm64 FILE  the output of scripts/prebuild/arm64-tests.mjs
import { execFileSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { argv } from 'node:process'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { gzipSync } from 'node:zlib'
import { z } from 'zod'
import { glibcNeeded, readSharedLibrary } from '../../lib/addon.js'
import { markdownTable } from '../../lib/report/table.js'
import { released } from '../architectures.mjs'

const root = fileURLToPath(new URL('../..', import.meta.url))
export const recordFile = join(root, 'docs', 'prebuilds.json')
export const pageFile = join(root, 'docs', 'install.md')
const MARKS = ['<!-- measured: npm run docs:install -->', '<!-- end -->'] as const

const Prebuild = z.strictObject({
  kernels: z.string(),
  bytes: z.number(),
  gzip: z.number(),
  glibc: z.string().optional(),
  needed: z.array(z.string()),
  exports: z.array(z.string()),
})
const Installed = z.strictObject({
  node: z.string(),
  npm: z.string(),
  glibc: z.string(),
  seconds: z.number(),
  addon: z.string(),
  answer: z.string(),
})
export const Prebuilds = z.strictObject({
  /** Bytes of the tarball of `npm pack`, with all of them. */
  tarball: z.number().optional(),
  prebuilds: z.record(z.string(), Prebuild),
  installed: z.array(Installed),
  /** Tests of operators on linux-arm64, executed by qemu-user. */
  arm64: z.strictObject({ total: z.number(), passed: z.number() }).optional(),
})
export type Prebuilds = z.infer<typeof Prebuilds>

/** What a prebuilt addon is, read from its file. */
export function describe(platform: string): z.infer<typeof Prebuild> {
  const bytes = readFileSync(join(root, 'prebuilds', platform, 'mtransllama.node'))
  // CUDA's device code lies in sections that have this name.
  const cuda = bytes.includes('.nv_fatbin')
  const library = platform.startsWith('linux') ? readSharedLibrary(bytes) : undefined
  const glibc = library && glibcNeeded(library)
  return {
    kernels: cuda ? `CPU; CUDA ${released.replaceAll(';', ', ')}` : 'CPU',
    bytes: bytes.length,
    gzip: gzipSync(bytes).length,
    ...(glibc !== undefined && { glibc }),
    needed: library?.needed ?? [],
    exports: library?.exports ?? [],
  }
}

const megabytes = (bytes: number): string => `${(bytes / 1e6).toFixed(1)} MB`

/** The part of the page between the marks. */
export function tables({ tarball, prebuilds, installed, arm64 }: Prebuilds): string {
  return [
    MARKS[0],
    markdownTable(
      ['addon for', 'kernels', 'size', 'packed (gzip)', 'glibc', 'asks for', 'exports'],
      Object.entries(prebuilds).map(([platform, p]) => [
        platform,
        p.kernels,
        megabytes(p.bytes),
        megabytes(p.gzip),
        p.glibc ?? '',
        p.needed.join(', '),
        p.exports.join(', '),
      ]),
    ),
    ...(tarball === undefined ? [] : [`The whole package is ${megabytes(tarball)} packed.`]),
    markdownTable(
      ['Node.js', 'npm', 'glibc', 'installed in', 'addon', '`ask` answers'],
      installed.map((i) => [i.node, i.npm, i.glibc, `${i.seconds} s`, i.addon, i.answer]),
    ),
    ...(arm64 ? [`Tests of operators on linux-arm64 under qemu-user: ${arm64.passed} of ${arm64.total} passed.`] : []),
    MARKS[1],
  ].join('\n\n')
}

/** The page with other tables between its marks. */
export function pageWith(page: string, record: Prebuilds): string {
  const [begin, end] = MARKS.map((mark) => page.indexOf(mark)) as [number, number]
  if (begin < 0 || end < begin) throw new Error(`docs/install.md: the marks ${MARKS.join(' and ')} are missing`)
  return page.slice(0, begin) + tables(record) + page.slice(end + MARKS[1].length)
}

function option(name: string): string | undefined {
  const at = argv.indexOf(`--${name}`)
  return at < 0 ? undefined : readFileSync(argv[at + 1]!, 'utf8')
}

function main(): void {
  const record = Prebuilds.parse(JSON.parse(readFileSync(recordFile, 'utf8')))
  const folder = join(root, 'prebuilds')
  const platforms = existsSync(folder) ? readdirSync(folder).sort() : []
  for (const platform of platforms) record.prebuilds[platform] = describe(platform)
  if (platforms.length && platforms.length === Object.keys(record.prebuilds).length) {
    const packed = execFileSync('npm', ['pack', '--dry-run', '--json'], { cwd: root, encoding: 'utf8' })
    record.tarball = (JSON.parse(packed.replace(/^[^[{]*/, '')) as [{ size: number }])[0].size
  }
  const nodes = option('nodes')
  if (nodes !== undefined)
    record.installed = nodes
      .trim()
      .split('\n')
      .map((line) => Installed.parse(JSON.parse(line)))
  const arm64 = option('arm64')
  if (arm64 !== undefined) {
    const count = (what: string): number =>
      [...arm64.matchAll(new RegExp(`${what}:\\s+(\\d+)`, 'g'))].reduce((sum, [, n]) => sum + Number(n), 0)
    record.arm64 = { total: count('Total'), passed: count('Passed') }
  }
  writeFileSync(recordFile, `${JSON.stringify(Prebuilds.parse(record), null, 2)}\n`)
  writeFileSync(pageFile, pageWith(readFileSync(pageFile, 'utf8'), record))
}

if (import.meta.url === pathToFileURL(argv[1] ?? '').href) main()
