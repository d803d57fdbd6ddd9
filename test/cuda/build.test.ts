// Other builds of the CUDA sources: the real one, by nvcc, which loads on a machine without a driver and says what is
// missing; and the emulator's with the address and undefined-behaviour sanitizers.
import { execFileSync, spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { test as plain } from 'uvu'
import * as assert from 'uvu/assert'
import { run } from '../native/child.js'
import { compiled } from './compiled.js'

const root = fileURLToPath(new URL('../..', import.meta.url))
const has = (tool: string): boolean => spawnSync(tool, ['--version'], { stdio: 'ignore' }).status === 0
const node = (args: string[]): { status: number | null; out: string } => {
  const { status, stdout, stderr } = spawnSync(process.execPath, args, {
    cwd: root,
    encoding: 'utf8',
    env: { ...process.env, MT_ADDON: undefined },
    maxBuffer: 1 << 28,
  })
  return { status, out: `${stderr}${stdout}` } // compilers write to stderr, and before the tests do
}
const tail = (out: string): string => out.split('\n').slice(-40).join('\n')

const cuda = has('nvcc') && has('cmake')
if (!cuda) console.error('test/cuda/build: the real CUDA build is skipped, since there is no nvcc or no cmake')
;(cuda ? plain : plain.skip)(
  'nvcc builds the addon for sm_80 and sm_90; it exports Node-API alone, loads anywhere and says what it finds',
  async () => {
    const built = compiled()
    assert.is(built.status, 0, tail(built.out))
    assert.not.match(built.out, /warning/i)
    const addon = join(built.folder, 'Release', 'mtransllama.node')
    if (process.platform === 'linux' && existsSync('/usr/bin/nm')) {
      const names = execFileSync('nm', ['-D', '--defined-only', addon], { encoding: 'utf8' })
        .trim()
        .split('\n')
        .map((l) => l.split(' ').at(-1))
      assert.equal(names.sort(), ['napi_register_module_v1', 'node_api_module_get_api_version_v1'])
    }
    const { status, stdout, stderr } = await run(
      `const { cuda } = m.devices()
     console.log(JSON.stringify(cuda)); console.log((await m.add(m.tensor([1, 2]), m.tensor([3, 4])).data()).join())`,
      { MT_ADDON: addon },
    )
    assert.is(status, 0, stderr)
    const [found, sum] = stdout.trim().split('\n')
    const { built: has, emulated, architectures, devices, reason } = JSON.parse(found!)
    assert.equal([has, emulated, architectures], [true, false, '80-real 90-real 80-virtual'])
    assert.ok(devices.length > 0 || /driver|device/.test(reason), `no device and no reason: ${reason}`)
    assert.is(sum, '4,6')
  },
)

const sanitizers = process.platform === 'linux' && has('cmake') && has('g++')
if (!sanitizers) console.error('test/cuda/build: the sanitizers are skipped, since there is no cmake or no g++')
;(sanitizers ? plain : plain.skip)(
  'every kernel on every case is clean under the address and undefined-behaviour sanitizers',
  () => {
    const { status, out } = node([
      'test/native/sanitize.mjs',
      'test/cuda/operators.test.ts',
      'test/cuda/errors.test.ts',
      'test/cuda/faults.test.ts',
    ])
    assert.is(status, 0, tail(out))
    assert.match(out, /3 files passed under the sanitizers/)
  },
)

plain.run()
