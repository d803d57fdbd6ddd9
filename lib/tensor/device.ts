/** Where tensors lie and operators run: the CPU, or a CUDA device. */
import { invalid } from '../errors.js'
import { native } from '../native.js'

/** `cpu`, or `cuda:` and the device's number. */
export type Device = 'cpu' | `cuda:${number}`
/** What a user may ask for. `cuda` is `cuda:0`; `auto` is `cuda:0` where there is one, else `cpu`. */
export type DeviceChoice = 'auto' | 'cuda' | Device

/** A CUDA device. */
export interface CudaDevice {
  device: Device
  /** As the driver calls it. */
  name: string
  /** Compute capability, as in "9.0". */
  capability: string
  multiprocessors: number
  /** Bytes, in all and not in use by anyone. */
  memory: number
  free: number
}

/** What this build and this machine can run on. */
export interface Devices {
  cpu: { threads: number }
  cuda: {
    /** Whether the addon holds CUDA kernels, and for which architectures. */
    built: boolean
    architectures: string
    /** Whether they run on the CPU, as a test of their source. */
    emulated: boolean
    devices: CudaDevice[]
    /**
     * The library of large bfloat16 products, and why: cuBLASLt where it is found, else kernels of this package;
     * MT_GEMM=own|cublaslt decides it.
     */
    products: { by: 'own' | 'cublaslt'; reason: string }
    /** Why there is no device, or why one cannot be used; empty where all is well. */
    reason: string
  }
}

/** The devices that can be used, and in `cuda.reason` why there are no others. Never throws where the addon loads. */
export function devices(): Devices {
  const found = native().devices()
  const failures = found.devices.flatMap((d) => ('failure' in d ? [d.failure] : []))
  return {
    cpu: { threads: native().threads() },
    cuda: {
      built: found.built,
      architectures: found.architectures,
      emulated: found.emulated,
      products: found.products,
      devices: found.devices.flatMap((d, i) => ('failure' in d ? [] : [{ device: `cuda:${i}` as const, ...d }])),
      reason: [found.reason, ...failures].filter(Boolean).join('; '),
    },
  }
}

/** The number of a device in native code. Throws where it is not a device. */
export function deviceId(device: Device): number {
  if (device === 'cpu') return -1
  const id = /^cuda:(\d{1,3})$/.exec(device)?.[1]
  if (id === undefined) throw invalid('device', 'cpu, cuda or cuda: and a number', device)
  return Number(id)
}

/** The device of a number in native code; undefined where it is not yet decided. */
export const deviceOf = (id: number): Device | undefined => (id >= 0 ? `cuda:${id}` : id === -1 ? 'cpu' : undefined)

/** A choice and why it was made. */
export interface Choice {
  device: Device
  reason: string
}

/**
 * Resolves a user's choice to a device. `auto` never fails; `cuda` never falls back: where there is no such device it
 * throws with the reason.
 */
export function chooseDevice(wanted: DeviceChoice = 'auto'): Choice {
  if (wanted === 'cpu') return { device: 'cpu', reason: 'as asked' }
  const device = wanted === 'auto' || wanted === 'cuda' ? 'cuda:0' : wanted
  const id = deviceId(device)
  const { cuda } = devices()
  const found = cuda.devices.find((d) => d.device === device)
  const products = cuda.products.by === 'own' ? 'own kernels' : cuda.products.reason
  if (found)
    return {
      device,
      reason: `${found.name}${cuda.emulated ? ', emulated on the CPU' : ''}, compute capability ${found.capability}; bfloat16 products by ${products}`,
    }
  const there = cuda.devices.map((d) => d.device).join(', ')
  const reason = cuda.reason || `there is ${there || 'none'}, and no device ${id}`
  if (wanted === 'auto') return { device: 'cpu', reason }
  throw invalid('device', there ? `one of cpu, ${there}` : 'cpu', wanted, cuda.reason || `cuda:${id} does not exist`)
}
