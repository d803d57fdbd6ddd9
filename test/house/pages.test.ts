// Pages of the repository: links and citations lead to files and headings that exist.
import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { dirname, join, normalize } from 'node:path'
import { fileURLToPath } from 'node:url'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { withTable } from '../../scripts/docs/models.js'
import { configurationPage, dataPage } from '../../scripts/docs/pages.js'
import { anchorsOf } from '../support/anchors.js'

const root = fileURLToPath(new URL('../..', import.meta.url))
const tracked = spawnSync('git', ['ls-files', '-co', '--exclude-standard'], { cwd: root, encoding: 'utf8' })
  .stdout.split('\n')
  .filter((file) => file && existsSync(join(root, file)))
const read = (path: string): string => readFileSync(join(root, path), 'utf8')
const pages = tracked.filter((file) => file.endsWith('.md'))
const sources = tracked.filter((file) => /\.(ts|mts|mjs|cc|cu|h|py|sh)$|^(CMakeLists\.txt|binding\.gyp)$/.test(file))

/** What is wrong with a reference to `page#anchor`, if anything. */
function broken(page: string, anchor: string | undefined): string | undefined {
  if (!existsSync(join(root, page))) return `${page} is not there`
  return anchor && page.endsWith('.md') && !anchorsOf(read(page)).has(anchor) ? `${page} has no #${anchor}` : undefined
}

test('every page and anchor that code cites is there', () => {
  let cited = 0
  const wrong: string[] = []
  for (const file of sources)
    for (const [, page, anchor] of read(file).matchAll(/\b((?:docs|bench)\/[\w/-]+\.md)(?:#([\w-]+))?/g)) {
      if (anchor) cited++
      const problem = broken(page!, anchor)
      if (problem) wrong.push(`${file}: ${problem}`)
    }
  assert.ok(cited >= 15, `${cited} citations`)
  assert.equal(wrong, [])
})

test('every link of a page to a file of the repository leads there', () => {
  const wrong: string[] = []
  let links = 0
  for (const page of pages)
    for (const [, target] of read(page)
      .replace(/^```[\s\S]*?^```/gm, '')
      .matchAll(/\]\(([^)\s]+)\)/g)) {
      if (/^[a-z]+:/.test(target!)) continue
      links++
      const [path, anchor] = target!.split('#')
      const problem = broken(path ? normalize(join(dirname(page), path)) : page, anchor)
      if (problem) wrong.push(`${page}: ${problem}`)
    }
  assert.ok(links > 30, `${links} links`)
  assert.equal(wrong, [])
})

test("README.md's table of models is what its JSON and the shapes give: npm run docs:models", () => {
  assert.is(withTable(read('README.md')), read('README.md'))
})

test("lib/README.md's walk names files and functions that exist", () => {
  const text = read('lib/README.md')
  const files = [...text.matchAll(/`([\w/-]+\.ts)`(?: `([\w.]+)`)?/g)]
  assert.ok(files.length > 25, `${files.length} files`)
  for (const [, file, name] of files) {
    const path = file!.startsWith('test/') ? file! : join('lib', file!)
    assert.ok(existsSync(join(root, path)), `${file} is not there`)
    if (name) assert.match(read(path), new RegExp(`\\b${name.split('.').at(-1)}\\b`), `${file} has no ${name}`)
  }
})

test("README's times and memory are figures of docs/benchmarks.md", () => {
  const rows = read('README.md').match(/^\| .*, 1 thread \|.*\|$/gm) ?? []
  assert.ok(rows.length >= 3)
  const page = read('docs/benchmarks.md')
  for (const row of rows)
    for (const figure of row.match(/\d[\d.]* (s|ms|kB|MB|GB)\b/g)!)
      assert.ok(page.includes(`| ${figure} |`), `${figure} is not in docs/benchmarks.md`)
})

test('nothing cites a plan that is not in the repository', () => {
  const wrong = [...sources, ...pages].filter((file) =>
    /\b(SPEC|DESIGN|HOUSE)(\.md\b|'s\b| §)/.test(read(file).replaceAll('(SPEC|DESIGN|HOUSE)', '')),
  )
  assert.equal(wrong, [])
})

test('docs/configuration.md and docs/data.md are what the schemas say (npm run schemas)', () => {
  assert.is(read('docs/configuration.md'), configurationPage())
  assert.is(read('docs/data.md'), dataPage())
})

test.run()
