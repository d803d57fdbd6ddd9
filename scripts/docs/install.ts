// npm run docs:install: brings docs/prebuilds.json up to date with what is in prebuilds/, and writes its tables into
// docs/install.md, between the marks. Options take what other programs printed:
//   --nodes FILE  the lines of scripts/prebuild/empty-root.sh
//   --arm64 FILE --commit HASH  the output of scripts/prebuild/arm64-tests.mjs, of all parts that were run, and the
//                 sources that the addon was compiled from
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
  /** Tests of operators on linux-arm64, executed by qemu-user: counts by file, and files that were not run. */
  arm64: z
    .strictObject({
      commit: z.string(),
      files: z.record(z.string(), z.strictObject({ passed: z.number(), total: z.number() })),
      missing: z.array(z.string()),
    })
    .optional(),
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

function arm64Text({ commit, files, missing }: NonNullable<Prebuilds['arm64']>): string {
  const counts = Object.values(files)
  const sum = (of: 'passed' | 'total'): number => counts.reduce((n, file) => n + file[of], 0)
  const each = Object.entries(files).map(([name, { passed, total }]) => `${name} ${passed}/${total}`)
  const rest = missing.length ? ` Not run there: ${missing.join(', ')}.` : ''
  return `Tests of operators (test/ops) on linux-arm64 under qemu-user, at commit ${commit.slice(0, 10)}: ${sum('passed')} of ${sum('total')} passed (${each.join(', ')}).${rest}`
}

type Arm64 = NonNullable<Prebuilds['arm64']>

/**
 * What the output of uvu counts, by test file; a file may occur several times, with other parts of its tests. Of a file
 * whose run was cut short the tests count that had passed.
 */
function countsOf(output: string, commit: string): Arm64 {
  const files: Arm64['files'] = {}
  const cut = new Set<string>()
  const [, ...sections] = output.split(/^([\w-]+)\.test\.js$/m)
  for (let i = 0; i + 1 < sections.length; i += 2) {
    const [name, text] = [sections[i]!, sections[i + 1]!]
    const counts = [...text.matchAll(/\((\d+) \/ (\d+)\)/g)].map(([, passed, total]) => [Number(passed), Number(total)])
    const dots = text.split('•').length - 1
    if (!counts.length) cut.add(name)
    const file = (files[name] ??= { passed: 0, total: 0 })
    for (const [passed, total] of counts.length ? counts : [[dots, dots]]) {
      file.passed += passed!
      file.total += total!
    }
  }
  const all = readdirSync(join(root, 'test', 'ops')).flatMap((f) => /^(.+)\.test\.ts$/.exec(f)?.[1] ?? [])
  const missing = all.flatMap((name) => (!files[name] ? name : cut.has(name) ? `the rest of ${name}` : []))
  return { commit, files, missing }
}

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
    ...(arm64 ? [arm64Text(arm64)] : []),
    MARKS[1],
  ].join('\n\n')
}

/** The page with other tables between its marks. */
export function pageWith(page: string, record: Prebuilds): string {
  const [begin, end] = MARKS.map((mark) => page.indexOf(mark)) as [number, number]
  if (begin < 0 || end < begin) throw new Error(`docs/install.md: the marks ${MARKS.join(' and ')} are missing`)
  return page.slice(0, begin) + tables(record) + page.slice(end + MARKS[1].length)
}

function given(name: string): string | undefined {
  const at = argv.indexOf(`--${name}`)
  return at < 0 ? undefined : argv[at + 1]
}
function option(name: string): string | undefined {
  const file = given(name)
  return file === undefined ? undefined : readFileSync(file, 'utf8')
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
    const commit = given('commit')
    if (commit === undefined) throw new Error('--arm64: --commit has to name the sources of the addon')
    record.arm64 = countsOf(arm64, commit)
  }
  writeFileSync(recordFile, `${JSON.stringify(Prebuilds.parse(record), null, 2)}\n`)
  writeFileSync(pageFile, pageWith(readFileSync(pageFile, 'utf8'), record))
}

if (import.meta.url === pathToFileURL(argv[1] ?? '').href) main()
