// docs/tiny-world.md and its charts are what the committed study says (npm run docs:tiny-world).
import { readdirSync, readFileSync } from 'node:fs'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { tinyWorldFiles } from '../../scripts/docs/tiny-world.js'

const docs = new URL('../../docs/', import.meta.url)

test('every file that is made of the study is as it would be made now, and there is no other', () => {
  const files = tinyWorldFiles()
  for (const [path, text] of files) assert.is(readFileSync(new URL(path, docs), 'utf8'), text, path)
  const charts = readdirSync(new URL('tiny-world/', docs)).filter((name) => name.endsWith('.svg'))
  assert.equal(
    charts.map((name) => `tiny-world/${name}`).sort(),
    [...files.keys()].filter((f) => f.includes('/')).sort(),
  )
})

test.run()
