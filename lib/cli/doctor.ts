/**
 * `mtransllama doctor`: what this machine and this installation can do, and whether training would work. Each check is
 * tried for real and stands alone, so that a broken part hides no other.
 */
import { existsSync, statSync } from 'node:fs'
import { access, constants, mkdtemp, readdir, readFile, rm, statfs, writeFile } from 'node:fs/promises'
import { spawnSync } from 'node:child_process'
import { createRequire } from 'node:module'
import { availableParallelism, cpus, freemem, homedir, release, tmpdir, totalmem } from 'node:os'
import { dirname, join } from 'node:path'
import type { Command } from 'commander'
import { refusal, system } from '../addon.js'
import { nearestExisting } from '../files/folder.js'
import { textTable } from '../report/table.js'

/** `failed`: training would not work. `warning`: something to know; training works. */
export type Status = 'ok' | 'warning' | 'failed'

export interface Check {
  name: string
  status: Status
  /** What was found. */
  found: string
  /** What to do, where the status is not ok. */
  advice?: string
}

export interface Diagnosis {
  /** Whether training would work. */
  ok: boolean
  /** Where it would compute; absent where it would not work. */
  device?: string
  checks: Check[]
}

const ok = (found: string): Omit<Check, 'name'> => ({ status: 'ok', found })
const failed = (found: string, advice: string): Omit<Check, 'name'> => ({ status: 'failed', found, advice })
const warning = (found: string, advice: string): Omit<Check, 'name'> => ({ status: 'warning', found, advice })
const message = (error: unknown): string => (error as Error).message.trim().replace(/\s*\n\s*/g, ' ')

/** Runs all checks. `device`: where training is meant to run; see `chooseDevice`. Never throws. */
export async function diagnose(device = 'auto'): Promise<Diagnosis> {
  const checks: Check[] = []
  const check = async (name: string, look: () => Omit<Check, 'name'> | Promise<Omit<Check, 'name'>>): Promise<void> => {
    try {
      checks.push({ name, ...(await look()) })
    } catch (error) {
      checks.push({ name, ...failed(message(error), 'this check itself failed; report it') })
    }
  }
  let chosen: string | undefined
  let loads = false
  await check('versions', versions)
  await check('platform', platform)
  await check('processor', processor)
  await check('addon', async () => {
    const found = await addonFile()
    loads = found.status !== 'failed'
    return found
  })
  await check('memory', memoryLeft)
  await check('cuda', async () => {
    if (!loads) return failed('unknown without the addon', 'see addon')
    const { found, at } = await cuda(device)
    chosen = at
    return found
  })
  await check('arithmetic', () => arithmetic(chosen))
  await check('videos', videos)
  await check('hub cache', hubCache)
  await check('disk', disk)
  const fine = checks.every((c) => c.status !== 'failed')
  return { ok: fine, ...(fine && chosen !== undefined && { device: chosen }), checks }
}

/** The report for people. */
export function diagnosisText({ ok: fine, device, checks }: Diagnosis): string {
  const rows = checks.flatMap((c) => [
    [c.status, c.name, c.found],
    ...(c.advice === undefined ? [] : [['', '', `→ ${c.advice}`]]),
  ])
  const bad = checks.filter((c) => c.status === 'failed').map((c) => c.name)
  const verdict = fine ? `Training would work here, on ${device}.` : `Training would not work: see ${bad.join(', ')}.`
  return `${textTable(rows, () => false)}\n\n${verdict}`
}

export function register(program: Command): void {
  program
    .command('doctor')
    .description('check this machine and installation; exit 1 where training would not work')
    .option('--device <device>', 'where training is meant to run: auto, cpu, cuda or cuda:NUMBER', 'auto')
    .option('--json', 'print JSON')
    .action(async ({ device, json }: { device: string; json?: boolean }) => {
      const diagnosis = await diagnose(device)
      console.log(json ? JSON.stringify(diagnosis, null, 2) : diagnosisText(diagnosis))
      if (!diagnosis.ok) process.exitCode = 1
    })
}

// -------------------------------------------------------------------------------------------------------------- checks

const require = createRequire(import.meta.url)

interface About {
  version: string
  engines: { node: string }
}
const about = async (file: string | URL): Promise<About> => JSON.parse(await readFile(file, 'utf8')) as About

/** The version of an installed package, whatever it exports. */
async function packageVersion(name: string): Promise<string> {
  let folder = dirname(require.resolve(name))
  while (!existsSync(join(folder, 'package.json')) || !('version' in (await about(join(folder, 'package.json')))))
    folder = dirname(folder)
  return (await about(join(folder, 'package.json'))).version
}

async function versions(): Promise<Omit<Check, 'name'>> {
  const { version, engines } = await about(new URL('../../package.json', import.meta.url))
  const { node } = process.versions
  const packages: string[] = []
  const missing: string[] = []
  for (const name of ['node-av', 'sharp', '@huggingface/tokenizers', '@huggingface/hub'])
    await packageVersion(name).then(
      (found) => packages.push(`${name} ${found}`),
      () => missing.push(name),
    )
  const found = [`mtransllama ${version}`, `node ${node}`, ...packages, ...missing.map((m) => `${m} not installed`)]
  if (olderThan(node, engines.node)) return failed(found.join(', '), `install Node.js ${engines.node}`)
  if (missing.length) return failed(found.join(', '), `run "npm install" in the project's folder`)
  return ok(found.join(', '))
}

/** Whether a version is before the one of a range like `>=20.17`. */
export function olderThan(version: string, range: string): boolean {
  const numbers = (text: string): number[] => (text.match(/\d+/g) ?? []).map(Number)
  const [have, need] = [numbers(version), numbers(range)]
  const at = need.findIndex((n, i) => n !== (have[i] ?? 0))
  return at >= 0 && (have[at] ?? 0) < need[at]!
}

function platform(): Omit<Check, 'name'> {
  const { glibc } = system()
  const found = `${process.platform}-${process.arch}, ${release()}${glibc ? `, glibc ${glibc}` : ''}`
  return ['linux', 'darwin', 'win32'].includes(process.platform)
    ? ok(found)
    : warning(found, 'tested on Linux, macOS and Windows alone')
}

/** Instruction sets that kernels ask for, as Linux names them, by architecture. */
const FEATURES: Record<string, readonly string[]> = {
  x64: ['avx2', 'fma', 'f16c', 'avx512f', 'avx512bw', 'avx512dq', 'avx512vl', 'avx512_bf16'],
  arm64: ['asimd'],
}
/** Values of MT_CPU by architecture, the best first. */
const SETS: Record<string, readonly string[]> = { x64: ['avx512', 'avx2', 'portable'], arm64: ['neon', 'portable'] }

async function processor(): Promise<Omit<Check, 'name'>> {
  const model = cpus()[0]?.model.trim() || process.arch
  const info = process.platform === 'linux' ? await readFile('/proc/cpuinfo', 'utf8').catch(() => '') : ''
  const flags = new Set(/^(?:flags|Features)\s*:(.*)$/m.exec(info)?.[1]?.trim().split(' '))
  const features = (FEATURES[process.arch] ?? []).filter((f) => flags.has(f))
  const asked = ['MT_CPU', 'MT_THREADS'].flatMap((name) => (process.env[name] ? [`${name}=${process.env[name]}`] : []))
  const found = [
    model,
    `${availableParallelism()} threads`,
    ...(info ? [features.join(' ') || 'no vector instructions that kernels use'] : []),
    ...asked,
  ].join(', ')
  const { MT_CPU: isa, MT_THREADS: count } = process.env
  if (count && !(Number(count) > 0)) return warning(found, 'MT_THREADS is no number above 0 and is ignored; correct it')
  const sets = SETS[process.arch] ?? ['portable']
  if (isa && !sets.includes(isa)) {
    const choice = sets.join(', ').replace(/, (\w+)$/, ' or $1')
    return failed(found, `set MT_CPU to ${choice}, or unset it`)
  }
  if (info && process.arch === 'x64' && !features.includes('avx2'))
    return warning(found, 'portable kernels are used, which are several times slower than those for AVX2')
  return ok(found)
}

/** Loading a file that is cut off can end a process, so another one tries it first. */
async function addonFile(): Promise<Omit<Check, 'name'>> {
  const { addon, addonPlaces } = await import('../native.js')
  for (const place of addonPlaces()) {
    if (refusal(place, process) !== undefined) continue
    const { signal } = spawnSync(process.execPath, ['-e', 'require(process.argv[1])', place], { stdio: 'ignore' })
    if (signal)
      return failed(
        `${place}: loading it ends the process (${signal}); the file is damaged`,
        'build it again with "npx mtransllama build"',
      )
  }
  try {
    const { path, failures } = addon()
    if (!failures.length) return ok(`${path}${process.env.MT_ADDON ? ', which MT_ADDON names' : ''}`)
    const advice = process.env.MT_ADDON
      ? 'correct MT_ADDON, or unset it'
      : 'build it again with "npx mtransllama build"'
    return warning(`${path}, since another failed: ${failures.join('; ')}`, advice)
  } catch (error) {
    const [, ...lines] = (error as Error).message.split('\n')
    return failed(
      lines
        .slice(0, -1)
        .map((line) => line.trim())
        .join('; '),
      lines.at(-1)!.trim(),
    )
  }
}

const gib = (bytes: number): string => `${(bytes / 2 ** 30).toFixed(1)} GiB`

async function memoryLeft(): Promise<Omit<Check, 'name'>> {
  const constrained = process.constrainedMemory()
  const most = constrained > 0 && constrained < totalmem() ? constrained : totalmem()
  const limit = Number(process.env.MT_MEMORY_LIMIT || Infinity)
  const free = Math.min(freemem(), most, limit)
  const found = `${gib(most)}, ${gib(freemem())} free${limit < Infinity ? `, MT_MEMORY_LIMIT ${gib(limit)}` : ''}`
  if (!(limit > 0)) return failed(`MT_MEMORY_LIMIT=${process.env.MT_MEMORY_LIMIT}`, 'set it to bytes above 0')
  return room(free, found, 'close other programs, or raise MT_MEMORY_LIMIT')
}

/** Bytes below which nothing real is trained, and below which a large model is not. */
const [NONE, LITTLE] = [256 * 2 ** 20, 4 * 2 ** 30]

/** Whether so many free bytes, of memory or of a disk, are enough. */
export function room(free: number, found: string, advice: string): Omit<Check, 'name'> {
  if (free < NONE) return failed(found, advice)
  return free < LITTLE ? warning(found, `enough for small models alone; ${advice}`) : ok(found)
}

async function cuda(wanted: string): Promise<{ found: Omit<Check, 'name'>; at?: string }> {
  const { chooseDevice, devices } = await import('../tensor/device.js')
  const all = devices().cuda
  const shown = all.devices.map(
    (d) => `${d.device}: ${d.name}, compute capability ${d.capability}, ${gib(d.free)} of ${gib(d.memory)} free`,
  )
  const driver = await readFile('/proc/driver/nvidia/version', 'utf8').then(
    (text) => /Kernel Module\s+(?:for \S+\s+)?([\d.]+)/.exec(text)?.[1],
    () => undefined,
  )
  const found = [
    ...shown,
    ...(all.reason ? [shown.length ? all.reason : `none: ${all.reason}`] : []),
    all.built ? `kernels for ${all.architectures}${all.emulated ? ', emulated on the CPU' : ''}` : 'no kernels built',
    `driver ${driver ?? 'not found'}`,
    ...(shown.length ? [`bfloat16 products: ${all.products.reason || all.products.by}`] : []),
  ].join('; ')
  const choice = ((): { device?: string; error?: string } => {
    try {
      return chooseDevice(wanted as 'auto')
    } catch (error) {
      return { error: message(error) }
    }
  })()
  if (choice.device === undefined)
    return { found: failed(found, `--device ${wanted} would be refused: ${choice.error}`) }
  if (driver !== undefined && wanted === 'auto' && choice.device === 'cpu')
    return {
      found: warning(found, 'there is a driver, but training would use the CPU; see the reason'),
      at: choice.device,
    }
  return { found: ok(found), at: choice.device }
}

/** One product and its gradient, where training would compute: whole numbers, so the result is exact. */
async function arithmetic(device: string | undefined): Promise<Omit<Check, 'name'>> {
  if (device === undefined) return failed('not tried', 'see addon and cuda')
  const [{ linear }, { sumDim }, { reshape }, { scope }, { backward }, { tensor }] = await Promise.all([
    import('../ops/linear.js'),
    import('../ops/reduce.js'),
    import('../ops/views.js'),
    import('../tensor/scope.js'),
    import('../tensor/tape.js'),
    import('../tensor/tensor.js'),
  ])
  const [rows, width] = [8, 16]
  const x = Float32Array.from({ length: rows * width }, (_, i) => (i * 7) % 11)
  const expected = Float32Array.from({ length: width }, (_, c) =>
    x.reduce((s, v, i) => s + (i % width === c ? v : 0), 0),
  )
  try {
    const got = await scope(async () => {
      const w = tensor(new Float32Array(width).fill(1), [1, width])
        .to(device as 'cpu')
        .requireGrad()
      backward(reshape(sumDim(linear(tensor(x, [rows, width]).to(device as 'cpu'), w), 0), []))
      const gradient = (await w.grad!.data()) as Float32Array
      w.grad!.dispose()
      return gradient
    })
    return got.every((value, i) => value === expected[i])
      ? ok(`a product and its gradient on ${device} are exact`)
      : failed(
          `a gradient on ${device} is [${got}] instead of [${expected}]`,
          'rebuild the addon ("npx mtransllama build")',
        )
  } catch (error) {
    return failed(message(error), `${device} cannot compute; see the reason`)
  }
}

/** A picture of one pixel, PNG. */
const PIXEL = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC'

/** A picture read as training reads clips: by a decoding process that has loaded FFmpeg. */
async function videos(): Promise<Omit<Check, 'name'>> {
  let folder: string | undefined
  try {
    folder = await mkdtemp(join(tmpdir(), 'mtransllama-doctor-'))
    await writeFile(join(folder, '1.png'), Buffer.from(PIXEL, 'base64'))
    const { loadFfmpeg, ffmpegInfo } = await import('../data/ffmpeg.js')
    await loadFfmpeg()
    const { version, libraries } = ffmpegInfo()
    const { readFrames } = await import('../data/frames.js')
    const [frame] = await readFrames({ video: folder, fps: 1 }, { frames: 1, sampling: { kind: 'uniform' } })
    if (frame!.data.join() !== '255,0,0') return failed(`a red pixel was read as ${frame!.data}`, 'reinstall sharp')
    return ok(`FFmpeg ${version} (libavcodec ${libraries.avcodec}); a picture was decoded in a process of its own`)
  } catch (error) {
    return failed(
      message(error),
      folder === undefined
        ? 'temporary files cannot be written; free space there, or set TMPDIR to another folder'
        : 'videos cannot be read; run "npm install" again, with node-av and sharp for this platform',
    )
  } finally {
    if (folder !== undefined) await rm(folder, { recursive: true, force: true })
  }
}

/** Where Hugging Face's libraries keep what they download. */
async function hubCache(): Promise<Omit<Check, 'name'>> {
  const { HF_HUB_CACHE, HF_HOME, XDG_CACHE_HOME } = process.env
  const folder =
    HF_HUB_CACHE || join(HF_HOME || join(XDG_CACHE_HOME || join(homedir(), '.cache'), 'huggingface'), 'hub')
  const parent = nearestExisting(folder)
  try {
    const models = parent === folder ? (await readdir(folder)).filter((n) => n.startsWith('models--')).length : 0
    if (!statSync(parent).isDirectory()) throw new Error(`${parent} is no folder`)
    await access(parent, constants.W_OK)
    return ok(`${folder}${parent === folder ? `, ${models} models` : ', not there yet'}`)
  } catch (error) {
    return warning(`${folder}: ${message(error)}`, 'models cannot be kept there; set HF_HOME to a folder of yours')
  }
}

async function disk(): Promise<Omit<Check, 'name'>> {
  const places = [...new Set([process.cwd(), nearestExisting(tmpdir())])]
  const free = await Promise.all(places.map((place) => statfs(place).then(({ bavail, bsize }) => bavail * bsize)))
  const found = places.map((place, i) => `${gib(free[i]!)} free in ${place}`).join(', ')
  return room(Math.min(...free), found, 'free space on the disk')
}
