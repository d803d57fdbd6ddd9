// The API reference is generated as `npm run docs:api` does it, elsewhere: a page for each entry point, and links that
// lead to places that are there. Skips where TypeDoc, which is no dependency of the project, cannot be installed.
import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { entries } from '../../scripts/docs/entries.js'
import { anchorsOf } from '../support/anchors.js'
import { temporaryFolder } from '../support/tiny.js'

const root = fileURLToPath(new URL('../..', import.meta.url))
const tools = join(root, 'scripts', 'docs', 'api')

function installed(): boolean {
  if (existsSync(join(tools, 'node_modules', 'typedoc'))) return true
  const { status } = spawnSync('npm', ['ci', '--fetch-retries=0'], { cwd: tools, timeout: 60_000, stdio: 'ignore' })
  return status === 0
}

test('the API reference is written, a page for each entry point, and all of its links lead somewhere', () => {
  if (!installed()) return console.error('test/house/reference: skipped: TypeDoc cannot be installed here')
  const out = join(temporaryFolder('reference'), 'api')
  const { status, stderr, stdout } = spawnSync(
    process.execPath,
    ['--import', 'tsx', join('scripts', 'docs', 'reference.ts'), '--out', out],
    { cwd: root, encoding: 'utf8' },
  )
  assert.is(status, 0, stdout + stderr)
  const pages = new Map(readdirSync(out).map((name) => [name, readFileSync(join(out, name), 'utf8')]))
  assert.is(pages.size, entries.size + 1, [...pages.keys()].join())
  const ids = (text: string): string[] => [...text.matchAll(/<a id="([^"]+)">/g)].map(([, id]) => id!)
  const anchors = new Map([...pages].map(([name, text]) => [name, new Set([...anchorsOf(text), ...ids(text)])]))
  const wrong: string[] = []
  let links = 0
  for (const [name, text] of pages)
    for (const [, target] of text.matchAll(/\]\(([^)\s]+)\)/g)) {
      if (/^[a-z]+:/.test(target!)) continue
      links++
      const [page, anchor] = target!.split('#')
      const there = anchors.get(page || name)
      if (!there || (anchor && !there.has(anchor))) wrong.push(`${name}: ${target}`)
    }
  assert.ok(links > 100, `${links} links`)
  assert.equal(wrong, [])
})

test.run()
