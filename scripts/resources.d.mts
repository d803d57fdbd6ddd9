/**
 * What ptxas says of one kernel on one architecture; of a function that was not inlined, its stack and spills alone.
 */
export interface Kernel {
  file: string
  kernel: string
  arch: string
  registers: number
  shared: number
  stack: number
  stores: number
  loads: number
}
export interface Allowed {
  kernel: string
  arch: string
  bytes: number
  reason: string
}

export const allowed: readonly Allowed[]
export function sources(): string[]
export function nvcc(): string | null
export function shortName(name: string): string
export function parse(text: string): (Omit<Kernel, 'file' | 'arch'> & { arch?: string })[]
export function resources(options?: {
  files?: readonly string[]
  archs?: readonly string[]
  jobs?: number
}): Promise<Kernel[]>
export function ofBuild(folder: string, files?: readonly string[]): Kernel[] | null
export function spills(kernels: readonly Kernel[], list?: readonly Allowed[]): string[]
