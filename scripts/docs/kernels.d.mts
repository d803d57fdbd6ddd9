import type { Kernel } from '../resources.mjs'

export interface Committed {
  full: unknown
  host: unknown
  gpu: string[]
}

export function committed(): Committed
export function page(data: { nvcc: string; archs: readonly string[]; kernels: readonly Kernel[] } & Committed): string
export function comparable(text: string): string
