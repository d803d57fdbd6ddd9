/** The native runtime, of the whole process: memory, the wait for the queue, threads. */
import { native, type DeviceMemory, type Memory } from '../native.js'
import { deviceId, type Device } from './device.js'

/**
 * Counters of native memory, of the whole process. Call after `await sync()`: queued operators still hold their
 * tensors.
 */
export function memory(): Memory {
  return native().memory()
}
/** Counters of a CUDA device's memory, of the whole process. */
export const deviceMemory = (device: Device): DeviceMemory => native().memory(deviceId(device))
/** Starts a new measurement of `memory().peak`, or of a CUDA device's. */
export function resetPeak(device: Device = 'cpu'): void {
  native().resetPeak(deviceId(device))
}
/**
 * Gives freed blocks of the CPU's memory, which are kept for the next tensors of their sizes, back to the system. For
 * the end of work whose tensors are of other sizes than those of the work after it. Call after `await sync()`.
 */
export function releaseCached(): void {
  native().releaseCached()
}
/**
 * Resolves when everything called so far has been computed; rejects with the first failure, which names its operator.
 */
export function sync(): Promise<void> {
  return native().sync()
}
/** Like {@link sync}, waiting on the calling thread: for tests, benchmarks and exit handlers. */
export function syncBlocking(): void {
  native().syncBlocking()
}
/** Number of threads the CPU backend computes with; sets it if given. Default: MT_THREADS, else the machine's. */
export function threads(n?: number): number {
  return n === undefined ? native().threads() : native().threads(n)
}
