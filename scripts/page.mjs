// Copies the page of `serve` beside the compiled server: part of `npm pack`.
import { cpSync } from 'node:fs'
import { join } from 'node:path'
import { root } from './setup.mjs'

cpSync(join(root, 'lib', 'server', 'page'), join(root, 'dist', 'server', 'page'), { recursive: true })
