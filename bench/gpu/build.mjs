// Stage `build`: the addon for this machine's GPU, ptxas's report of its kernels, and the devices that it finds.
// MT_ADDON in the environment names an addon to use as it is. --archs LIST builds where nvidia-smi names no device.
import { spawnSync } from 'node:child_process'
import { existsSync, renameSync, writeFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { dirname, join } from 'node:path'
import { ofBuild, spills } from '../../scripts/resources.mjs'
import { option, reasonOf, root, run } from './child.mjs'

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
  const capabilities =
    asked.status === 0 ? [...new Set(asked.stdout.match(/\d+\.\d/g))].map((c) => c.replace('.', '')) : []
  const archs = option('archs') || capabilities.map((c) => `${c}-real`).join(';')
  if (!archs)
    end(
      3,
      asked.error
        ? 'no NVIDIA device: there is no nvidia-smi'
        : `no NVIDIA device: nvidia-smi says "${lastLine(asked.stderr || asked.stdout)}"`,
    )
  if (spawnSync('nvcc', ['--version']).error) end(3, 'there is no nvcc to build the CUDA kernels with')
  const { code, out, seconds } = await run(process.execPath, [
    join(root, 'scripts', 'build.mjs'),
    '--cuda=on',
    `--archs=${archs}`,
    '--force',
  ])
  process.stderr.write(out)
  Object.assign(result, { archs, seconds, cpus: availableParallelism(), built: code === 0 })
  if (code !== 0) {
    result.log = out.slice(-8000)
    end(1, `the build failed: ${reasonOf(out)}`)
  }
}

// Registers and spills, as ptxas reported them when the addon was compiled, here or elsewhere.
const kernels = ofBuild(dirname(dirname(result.addon)))
const spilled = kernels && spills(kernels)
result.ptxas = !kernels
  ? {
      status: 'unavailable',
      reason: existsSync(result.addon)
        ? 'there are no reports of ptxas beside the addon'
        : `${result.addon} is not there`,
    }
  : { status: spilled.length ? 'failed' : 'ok', ...(spilled.length && { reason: spilled.join('; ') }), kernels }

const probe = spawnSync(
  process.execPath,
  ['--import', 'tsx', '-e', "import('./lib/tensor/device.ts').then((m) => console.log(JSON.stringify(m.devices())))"],
  { cwd: root, encoding: 'utf8' },
)
if (probe.status !== 0)
  end(1, probe.stderr.split('\n').find((line) => /^\w*Error\b/.test(line)) ?? lastLine(probe.stderr))
result.devices = JSON.parse(lastLine(probe.stdout))
const { cuda } = result.devices
if (!cuda.devices.length) end(3, cuda.reason)
end(0, `${cuda.devices[0].name}${cuda.emulated ? ', emulated' : ''}, compute capability ${cuda.devices[0].capability}`)
