/** Native memory in use, for tests that compare the end with the beginning. All test files share one process. */
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { memory, sync } from '../../lib/tensor/runtime.js'

/** Bytes in use once everything queued has run. */
export async function bytes(): Promise<number> {
  await sync()
  return memory().bytes
}

/**
 * {@link bytes} at a beginning: what earlier tests left to the garbage collector is collected first, so that it cannot
 * be later.
 */
export async function settled(): Promise<number> {
  setFlagsFromString('--expose-gc')
  const collect = runInNewContext('gc') as () => void
  for (let i = 0; i < 3; i++) {
    collect()
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
  return bytes()
}
