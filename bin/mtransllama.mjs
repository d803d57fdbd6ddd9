#!/usr/bin/env node
// Starts the command line: the compiled one where it is built, else the sources through tsx. In a clone, sources that
// are newer than the build count as not built, so that nobody runs what they have since changed.
import { existsSync, readdirSync, statSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

const built = new URL('../dist/cli/main.js', import.meta.url)
const lib = fileURLToPath(new URL('../lib', import.meta.url))

function stale() {
  if (!existsSync(lib)) return false
  const { mtimeMs } = statSync(built)
  return readdirSync(lib, { recursive: true }).some((file) => statSync(`${lib}/${file}`).mtimeMs > mtimeMs)
}

if (existsSync(fileURLToPath(built)) && !stale()) await import(built)
else {
  const { register } = await import('tsx/esm/api')
  register()
  await import(new URL('../lib/cli/main.ts', import.meta.url))
}
