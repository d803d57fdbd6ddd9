// For tests that need a process of their own: runs JavaScript code with the project's modules in scope as `m`.
import { spawn } from 'node:child_process'

export interface Ended {
  status: number | null
  signal: NodeJS.Signals | null
  stdout: string
  stderr: string
}

const modules = [
  'native',
  'tensor/tensor',
  'tensor/runtime',
  'tensor/device',
  'tensor/cuda-graph',
  'tensor/profile',
  'tensor/scope',
  'tensor/tape',
  'ops/copy',
  'ops/elementwise',
  'ops/linear',
  'ops/random',
  'ops/embedding',
  'ops/lora',
  'ops/router',
]

/** The first lines of such code: one object with all exports. */
export const prelude = `const m = Object.assign({}, ...(await Promise.all(${JSON.stringify(modules.map((name) => new URL(`../../lib/${name}.ts`, import.meta.url).href))}.map((url) => import(url)))))\n`

/** Never rejects; kills a process that takes longer than `timeout` ms. Does not block this process. */
export function run(
  code: string,
  env: Record<string, string> = {},
  timeout = 120_000,
  flags: string[] = [],
): Promise<Ended> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [...flags, '--import', 'tsx', '--input-type=module', '-e', prelude + code], {
      env: { ...process.env, ...env },
      timeout,
      killSignal: 'SIGKILL',
    })
    const out = { stdout: '', stderr: '' }
    child.stdout.on('data', (data) => (out.stdout += data))
    child.stderr.on('data', (data) => (out.stderr += data))
    child.on('error', reject)
    child.on('close', (status, signal) => resolve({ status, signal, ...out }))
  })
}
