// Copies what is no TypeScript beside the compiled code, the pages of `serve` and of the report and the data of
// datasets: part of `npm pack`.
import { cpSync } from 'node:fs'
import { join } from 'node:path'
import { root } from './setup.mjs'

for (const part of ['server/page', 'report/page', 'data/datasets'])
  cpSync(join(root, 'lib', part), join(root, 'dist', part), {
    recursive: true,
    filter: (path) => !path.endsWith('.ts'),
  })
