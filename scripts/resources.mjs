// The resources of every CUDA kernel, as ptxas reports them: registers, static shared memory, stack, spilled bytes.
// node scripts/resources.mjs [--archs=sm_80,sm_90] [--build=FOLDER] [--json]: compiles every .cu file with nvcc, nothing is
// kept of it, or reads what a build for the tested architectures left in its folder; ends with 1 where a kernel spills
// that is not on the list below. With --import tsx, --write makes docs/kernels.md of it. Needs no GPU.
import { spawn, spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { architectures } from './architectures.mjs'

const root = dirname(dirname(fileURLToPath(import.meta.url)))

/** Kernels that may spill, up to `bytes` each way: { kernel, arch, bytes (at most 16), reason }. */
export const allowed = []

/** Every .cu file of the addon, as paths from the root. */
export const sources = () =>
  ['native/kernels/cuda', 'native/instruments', 'native/ops'].flatMap((dir) =>
    readdirSync(join(root, dir))
      .filter((f) => f.endsWith('.cu'))
      .sort()
      .map((f) => `${dir}/${f}`),
  )

/** nvcc's release, or null where there is no nvcc. */
export const nvcc = () =>
  /release [\d.]+, V([\d.]+)/.exec(spawnSync('nvcc', ['--version'], { encoding: 'utf8' }).stdout ?? '')?.[1] ?? null

// ---- names ----

function demangled(text) {
  for (const tool of ['c++filt', 'cu++filt']) {
    const { status, stdout } = spawnSync(tool, { input: text, encoding: 'utf8', maxBuffer: 1 << 28 })
    if (status === 0) return stdout
  }
  return text
}

/** Cuts a function's arguments off, the last parenthesis that opens at its level; template arguments stay. */
function withoutArguments(name) {
  let depth = 0
  for (let i = name.length - 1; i >= 0; i--) {
    if (name[i] === ')') depth++
    else if (name[i] === '(' && --depth === 0) return name.slice(0, i)
  }
  return name
}

/** `void mt::cuda::(anonymous namespace)::f<mt::bf16>(mt::bf16 const*)` as f<bf16>. */
export const shortName = (name) =>
  (name.endsWith(')') ? withoutArguments(name) : name)
    .replace(/^void /, '')
    .replace(/_GLOBAL__N__\w+/g, '(anonymous namespace)')
    .replace(/(mt|cuda|\(anonymous namespace\))::/g, '')
    .replace(/\((bool|int|unsigned int|long)\)/g, '')
    .trim()

// ---- ptxas ----

/**
 * The functions in what `ptxas -v` says, demangled or not: kernels, and functions that were not inlined (no registers
 * of their own).
 */
export function parse(text) {
  const found = new Map() // by architecture and name: one text may be of several
  let [arch, f] = []
  for (const line of text.split('\n')) {
    const number = (pattern) => Number(pattern.exec(line)?.[1] ?? 0)
    const entry = /Compiling entry function '(.+)' for '(\w+)'/.exec(line)
    const properties = /Function properties for (.+)$/.exec(line)
    const called = entry ?? properties
    if (entry) arch = entry[2]
    if (called) {
      const key = `${arch} ${called[1]}`
      f = found.get(key) ?? {
        kernel: shortName(called[1]),
        arch,
        registers: 0,
        shared: 0,
        stack: 0,
        stores: 0,
        loads: 0,
      }
      found.set(key, f)
    } else if (f && /Used \d+ registers/.test(line))
      Object.assign(f, { registers: number(/Used (\d+) registers/), shared: number(/(\d+) bytes smem/) })
    else if (f && /bytes spill stores/.test(line))
      Object.assign(f, {
        stack: number(/(\d+) bytes stack/),
        stores: number(/(\d+) bytes spill stores/),
        loads: number(/(\d+) bytes spill loads/),
      })
  }
  return [...found.values()]
}

function compile(file, arch, folder) {
  const args = [
    '-std=c++20',
    '--expt-relaxed-constexpr',
    `-arch=${arch}`,
    '-Xptxas',
    '-v',
    '-Inative',
    '-cubin',
    file,
    '-o',
    join(folder, `${file.replaceAll('/', '-')}.${arch}.cubin`),
  ]
  const child = spawn('nvcc', args, { cwd: root, stdio: ['ignore', 'pipe', 'pipe'] })
  let text = ''
  for (const stream of [child.stdout, child.stderr])
    stream.setEncoding('utf8').on('data', (data) => {
      text += data
    })
  return new Promise((resolve, reject) => {
    child.on('error', reject)
    child.on('close', (code) =>
      code === 0 ? resolve(text) : reject(new Error(`nvcc ${args.join(' ')} ended with ${code}\n${text}`)),
    )
  })
}

/**
 * Every kernel of the files: { file, kernel, arch, registers, shared, stack, stores, loads }, by file, name and
 * architecture.
 */
export async function resources({ files = sources(), archs = architectures, jobs = 2 } = {}) {
  const folder = mkdtempSync(join(tmpdir(), 'mt-resources-'))
  const work = files.flatMap((file) => archs.map((arch) => ({ file, arch })))
  const found = []
  const one = async () => {
    for (let w; (w = work.shift()); )
      for (const kernel of parse(demangled(await compile(w.file, w.arch, folder))))
        found.push({ file: w.file, ...kernel, arch: w.arch })
  }
  try {
    await Promise.all(Array.from({ length: jobs }, one))
  } finally {
    work.length = 0
    rmSync(folder, { recursive: true, force: true })
  }
  return sorted(found)
}

function sorted(kernels) {
  const key = ({ file, kernel, arch }) => [file, kernel, arch].join('\0')
  return kernels.sort((a, b) => (key(a) < key(b) ? -1 : 1))
}

/** The same from what a build by scripts/build.mjs left in its folder, or null where it has not compiled every file. */
export function ofBuild(folder, files = sources()) {
  const texts = files.map((file) =>
    ['o', 'obj'].map((end) => join(folder, 'CMakeFiles', 'mtransllama.dir', `${file}.${end}.ptxas`)).find(existsSync),
  )
  if (!texts.every(Boolean)) return null
  return sorted(
    files.flatMap((file, i) => parse(demangled(readFileSync(texts[i], 'utf8'))).map((kernel) => ({ file, ...kernel }))),
  )
}

/** Messages about kernels that spill beyond the list. */
export const spills = (kernels, list = allowed) =>
  kernels
    .filter(({ kernel, arch, stores, loads }) => {
      const most = list.find((a) => a.kernel === kernel && a.arch === arch)?.bytes ?? 0
      return Math.max(stores, loads) > most
    })
    .map(
      ({ file, kernel, arch, stores, loads }) =>
        `${kernel} (${file}) spills on ${arch}: ${stores} bytes stored, ${loads} loaded`,
    )

// ---- the command ----

async function main() {
  const option = (name) => process.argv.findLast((a) => a.startsWith(`--${name}=`))?.slice(name.length + 3)
  const version = nvcc()
  if (!version) throw new Error('nvcc was not found; put the CUDA toolkit into the PATH')
  const write = process.argv.includes('--write')
  const archs = write ? architectures : (option('archs')?.split(',') ?? architectures)
  const build = option('build')
  const kernels = build === undefined ? await resources({ archs }) : ofBuild(build)
  if (!kernels) throw new Error(`--build: ${build} has no records of all kernels; build it with --cuda=on`)
  if (write) {
    const { committed, page } = await import('./docs/kernels.mjs')
    writeFileSync(
      join(root, 'docs', 'kernels.md'),
      page({ nvcc: version, archs: architectures, kernels, ...committed() }),
    )
  } else if (process.argv.includes('--json')) console.log(JSON.stringify({ nvcc: version, kernels }, null, 1))
  else console.table(kernels, ['arch', 'registers', 'shared', 'stores', 'loads', 'file', 'kernel'])
  const bad = spills(kernels)
  for (const line of bad) console.error(line)
  process.exitCode = bad.length ? 1 : 0
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) await main()
