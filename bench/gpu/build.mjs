// Stage `build`: the addon for this machine's GPU, what ptxas says of its kernels, and the devices it then finds. With
// MT_ADDON in the environment that addon is taken as it is. --archs LIST builds where nvidia-smi names no device.
import { spawn, spawnSync } from 'node:child_process'
import { renameSync, writeFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = dirname(dirname(dirname(fileURLToPath(import.meta.url))))
const option = (name) => (process.argv.includes(`--${name}`) ? process.argv[process.argv.indexOf(`--${name}`) + 1] : undefined)
const result = { addon: process.env.MT_ADDON ?? join(root, 'build', 'Release', 'mtransllama.node'), built: false }

function end(code, line) {
  const to = option('to')
  if (to) {
    writeFileSync(`${to}.part`, JSON.stringify(result))
    renameSync(`${to}.part`, to)
  }
  console.log(line)
  process.exit(code)
}
const lastLine = (text) => text.trim().split('\n').at(-1) ?? ''

if (!process.env.MT_ADDON) {
  const asked = spawnSync('nvidia-smi', ['--query-gpu=compute_cap', '--format=csv,noheader'], { encoding: 'utf8' })
  const capabilities = asked.status === 0 ? [...new Set(asked.stdout.match(/\d+\.\d/g))].map((c) => c.replace('.', '')) : []
  const archs = option('archs') || capabilities.map((c) => `${c}-real`).join(';')
  if (!archs) end(3, asked.error ? 'no NVIDIA device: there is no nvidia-smi' : `no NVIDIA device: nvidia-smi says "${lastLine(asked.stderr || asked.stdout)}"`)
  if (spawnSync('nvcc', ['--version']).error) end(3, 'there is no nvcc to build the CUDA kernels with')
  const start = Date.now()
  const run = spawnSync(process.execPath, [join(root, 'native', 'build.mjs'), '--cuda=on', `--archs=${archs}`, '--force'], { cwd: root, encoding: 'utf8', maxBuffer: 1 << 28 })
  process.stderr.write(run.stdout + run.stderr)
  Object.assign(result, { archs, seconds: (Date.now() - start) / 1000, cpus: availableParallelism(), built: run.status === 0 })
  if (run.status !== 0) end(1, `the build failed: ${lastLine(run.stderr)}`)
  result.ptxas = await ptxas([...archs.matchAll(/(\d+)(-real)?/g)].map(([, n]) => `sm_${n}`))
}

/** Registers and spills of every kernel. More than a minute is too long, and no compiler is left running beside what is timed. */
function ptxas(archs) {
  const code = `const { resources, spills } = await import('./native/resources.mjs')
    const kernels = await resources({ archs: ${JSON.stringify(archs)}, jobs: ${availableParallelism()} })
    console.log(JSON.stringify({ kernels, spills: spills(kernels) }))`
  const child = spawn(process.execPath, ['--input-type=module', '-e', code], { cwd: root, detached: true, stdio: ['ignore', 'pipe', 'pipe'] })
  const timer = setTimeout(() => process.kill(-child.pid, 'SIGKILL'), 60_000)
  let [out, err] = ['', '']
  child.stdout.on('data', (data) => { out += data })
  child.stderr.on('data', (data) => { err += data })
  return new Promise((resolve) => child.on('close', (status, signal) => {
    clearTimeout(timer)
    if (status !== 0) return resolve({ status: 'unavailable', reason: signal ? 'nvcc took over 60 s' : lastLine(err) })
    const { kernels, spills } = JSON.parse(out)
    resolve({ status: spills.length ? 'failed' : 'ok', ...(spills.length && { reason: spills.join('; ') }), kernels })
  }))
}

const probe = spawnSync(process.execPath, ['--import', 'tsx', '-e', "import('./lib/tensor/device.ts').then((m) => console.log(JSON.stringify(m.devices())))"], { cwd: root, encoding: 'utf8' })
if (probe.status !== 0) end(1, probe.stderr.split('\n').find((line) => /^\w*Error\b/.test(line)) ?? lastLine(probe.stderr))
result.devices = JSON.parse(lastLine(probe.stdout))
const { cuda } = result.devices
if (!cuda.devices.length) end(3, cuda.reason)
end(0, `${cuda.devices[0].name}${cuda.emulated ? ', emulated' : ''}, compute capability ${cuda.devices[0].capability}`)
