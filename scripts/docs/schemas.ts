// npm run schemas: writes the JSON Schemas of docs and bench, and the pages about them, from the zod schemas of the code;
// tests compare them.
import { writeFile } from 'node:fs/promises'
import { benchJsonSchema } from '../../bench/record.js'
import { manifestJsonSchema } from '../../lib/data/manifest.js'
import { trainConfigJsonSchema } from '../../lib/train/config.js'
import { configurationPage, dataPage } from './pages.js'

for (const [name, schema] of [
  ['manifest', manifestJsonSchema()],
  ['config', trainConfigJsonSchema()],
] as const) {
  await writeFile(new URL(`../../docs/${name}.schema.json`, import.meta.url), `${JSON.stringify(schema, null, 2)}\n`)
}
await writeFile(new URL('../../bench/schema.json', import.meta.url), `${JSON.stringify(benchJsonSchema(), null, 2)}\n`)
await writeFile(new URL('../../docs/configuration.md', import.meta.url), configurationPage())
await writeFile(new URL('../../docs/data.md', import.meta.url), dataPage())
