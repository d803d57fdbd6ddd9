// Copies what is no TypeScript beside the compiled code: the pages of `serve` and of the report, the data of datasets,
// and Node-API's headers with their licences, for `mtransllama build`. Part of `npm pack`.
import { cpSync, mkdirSync, readdirSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { nodeApi, packed } from './node-api.mjs'
import { root } from './setup.mjs'

for (const part of ['server/page', 'report/page', 'data/datasets'])
  cpSync(join(root, 'lib', part), join(root, 'dist', part), {
    recursive: true,
    filter: (path) => !path.endsWith('.ts'),
  })

const [c, cpp] = nodeApi()
mkdirSync(packed, { recursive: true })
for (const folder of [c, cpp])
  for (const file of readdirSync(folder).filter((name) => name.endsWith('.h')))
    cpSync(join(folder, file), join(packed, file))
cpSync(join(dirname(c), 'def', 'node_api.def'), join(packed, 'node_api.def'))
for (const folder of [dirname(c), cpp])
  for (const file of readdirSync(folder).filter((name) => /^licen[cs]e/i.test(name)))
    cpSync(join(folder, file), join(packed, `LICENSE.${basename(folder)}.md`))
