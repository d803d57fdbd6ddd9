/** Rehearsals: a computation is run without computing, to learn how much memory it would take. */
import { native, type Rehearsed } from '../native.js'
import type { Device } from './device.js'

let running = false

/**
 * Runs `f` while operators check their arguments and count memory, and neither take it nor compute; tensors that are
 * read are zeros. Nothing else may compute on this thread meanwhile.
 *
 * @param device which one's operators are rehearsed; tensors are the CPU's either way
 */
export async function rehearse(f: () => unknown, device: Device = 'cpu'): Promise<Rehearsed> {
  if (running) throw new Error('rehearse: one rehearsal runs already.')
  running = true
  native().rehearse(true, device === 'cpu')
  try {
    await f()
    return native().rehearse(false)
  } catch (error) {
    native().rehearse(false)
    throw error
  } finally {
    running = false
  }
}
