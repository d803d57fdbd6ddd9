// The addon whose CUDA kernels run on the CPU, for tests that choose the emulator's modes (MT_EMULATOR). MT_EMULATED names
// an addon other than the one in build-emulated.
import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import * as assert from 'uvu/assert'
import { type Ended, run } from '../native/child.js'

const addon =
  process.env.MT_EMULATED ?? fileURLToPath(new URL('../../build-emulated/Release/mtransllama.node', import.meta.url))

/** The addon's file; null where it is not built. */
export const emulated = existsSync(addon) ? addon : null

/** Runs JavaScript on that addon, with the project's modules as `m`. Returns the printed lines; the exit status must be 0. */
export async function lines(code: string, modes = '', env: Record<string, string> = {}): Promise<string[]> {
  const { status, signal, stdout, stderr }: Ended = await run(code, { MT_ADDON: addon, MT_EMULATOR: modes, ...env })
  assert.is(signal, null, `killed by ${signal}: ${stderr}`)
  assert.is(status, 0, stderr)
  return stdout.trim().split('\n')
}
