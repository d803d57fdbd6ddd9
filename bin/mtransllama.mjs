#!/usr/bin/env node
// Starts the command line: the compiled one where it is built, else the sources through tsx.
import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

const built = new URL('../dist/cli/main.js', import.meta.url)
if (existsSync(fileURLToPath(built))) await import(built)
else {
  const { register } = await import('tsx/esm/api')
  register()
  await import(new URL('../lib/cli/main.ts', import.meta.url))
}
