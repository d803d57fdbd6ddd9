// The addon whose CUDA kernels run on the CPU, for tests that want to say how: MT_EMULATOR's modes. MT_EMULATED names
// it where it is another than the one in build-emulated.
import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import * as assert from 'uvu/assert'
import { type Ended, run } from '../native/child.js'

const addon =
  process.env.MT_EMULATED ?? fileURLToPath(new URL('../../build-emulated/Release/mtransllama.node', import.meta.url))

/** Null where it is not built. */
export const emulated = existsSync(addon) ? addon : null

/** Runs JavaScript with the project's modules as `m` on that addon; what it printed, line by line. It must end well. */
export async function lines(code: string, modes = '', env: Record<string, string> = {}): Promise<string[]> {
  const { status, signal, stdout, stderr }: Ended = await run(code, { MT_ADDON: addon, MT_EMULATOR: modes, ...env })
  assert.is(signal, null, `killed by ${signal}: ${stderr}`)
  assert.is(status, 0, stderr)
  return stdout.trim().split('\n')
}
