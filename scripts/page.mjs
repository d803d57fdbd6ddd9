// Copies the pages of `serve` and of the report beside the compiled code: part of `npm pack`.
import { cpSync } from 'node:fs'
import { join } from 'node:path'
import { root } from './setup.mjs'

for (const room of ['server', 'report'])
  cpSync(join(root, 'lib', room, 'page'), join(root, 'dist', room, 'page'), { recursive: true })
