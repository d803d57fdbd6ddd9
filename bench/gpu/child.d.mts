import type { ChildProcess, SpawnOptions } from 'node:child_process'

export const root: string
export function start(
  command: string,
  args: readonly string[],
  options?: SpawnOptions,
): { child: ChildProcess; kill: () => void }
export function run(
  command: string,
  args: readonly string[],
  options?: SpawnOptions & { limit?: number },
): Promise<{ code: number | null; signal: NodeJS.Signals | null; late: boolean; out: string; seconds: number }>
export function option(name: string): string | undefined
export function reasonOf(text: string): string
