/** Damages one number of a safetensors file in place. */
import { open } from 'node:fs/promises'
import { readHeader } from '../../lib/files/safetensors.js'

/** Overwrites the last element of a float32 tensor. */
export async function poison(path: string, name: string, value = NaN): Promise<void> {
  const { end, dtype } = (await readHeader(path)).entries.get(name)!
  if (dtype !== 'F32') throw new Error(`${name} is ${dtype}`)
  const file = await open(path, 'r+')
  await file.write(Buffer.from(Float32Array.of(value).buffer), 0, 4, end - 4).finally(() => file.close())
}
