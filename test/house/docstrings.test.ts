// Every public name has a docstring, and so has every method of a public class or interface; what their docstrings link
// to is public as well. `npm run docs:api` writes the API reference from them. Asks TypeScript's own API, whose version
// the lock file fixes.
import { fileURLToPath } from 'node:url'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { SyntaxKind } from 'typescript/unstable/ast'
import { API, SymbolFlags, type Checker, type Symbol as Name } from 'typescript/unstable/sync'
import { entries } from '../../scripts/docs/entries.js'

const root = fileURLToPath(new URL('../..', import.meta.url))

/** Public methods and accessors: what a caller can call. */
const methods = (name: Name): Name[] =>
  [...name.getMembers().values(), ...name.getExports().values()].filter(
    (member) =>
      member.flags & (SymbolFlags.Method | SymbolFlags.Accessor) &&
      !/^(__|#)|^\[/.test(member.name) &&
      !member.name.includes('#'),
  )

/** A name's documentation comments as they are written. */
const comments = (name: Name): string =>
  name.declarations
    .map((declaration) => {
      const node = declaration.resolve()
      // The comment of a constant stands before the statement around it.
      const documented = node?.kind === SyntaxKind.VariableDeclaration ? node.parent.parent : node
      return /^\s*\/\*\*[^]*?\*\//.exec(documented?.getFullText() ?? '')?.[0] ?? ''
    })
    .join('\n')

interface Found {
  /** Public names without a docstring, as `entry: name (file)`. */
  missing: string[]
  /** The links of docstrings, each with the name that it stands at and that name's members. */
  links: { at: string; to: string; members: Set<string> }[]
  seen: number
}

function docstrings(checker: Checker, module: Name, entry: string): Found {
  const missing: string[] = []
  const links: Found['links'] = []
  let seen = 0
  const link = (name: Name, shown: string, members: Set<string>): void => {
    for (const [, to] of comments(name).matchAll(/\{@link[\s*]+([\w.]+)/g))
      links.push({ at: `${entry}: ${shown}`, to: to!, members })
  }
  const inspect = (name: Name, shown: string): void => {
    seen++
    if (!checker.getDocumentationCommentOfSymbol(name).trim())
      missing.push(`${entry}: ${shown} (${name.declarations[0]?.path.slice(root.length)})`)
  }
  for (const exported of checker.getExportsOfModule(module)) {
    const name = exported.flags & SymbolFlags.Alias ? checker.getAliasedSymbol(exported) : exported
    inspect(name, exported.name)
    const all = name.flags & (SymbolFlags.Class | SymbolFlags.Interface) ? [...name.getMembers().values()] : []
    const members = new Set(all.map((member) => member.name))
    for (const member of methods(name)) inspect(member, `${exported.name}.${member.name}`)
    link(name, exported.name, members)
    for (const member of all) link(member, `${exported.name}.${member.name}`, members)
  }
  return { missing, links, seen }
}

test('every public name, and every method of one, has a docstring, whose links lead to public names', () => {
  const api = new API({ cwd: root })
  try {
    const [project] = api.updateSnapshot({ openProjects: [`${root}tsconfig.json`] }).getProjects()
    assert.ok(project)
    assert.ok(entries.size >= 1)
    const names = new Set<string>()
    const all: Found['links'] = []
    for (const [entry, file] of entries) {
      const source = project.program.getSourceFile(root + file)
      assert.ok(source, `${entry}: package.json names ${file}, which is not there`)
      const module = project.checker.getSymbolAtLocation(source)
      assert.ok(module, `${file} exports nothing`)
      const { missing, links, seen } = docstrings(project.checker, module, entry)
      assert.ok(seen > 10, `${entry} has ${seen} public names`)
      assert.equal(missing, [])
      all.push(...links)
      for (const { name } of project.checker.getExportsOfModule(module)) names.add(name)
    }
    assert.ok(all.length > 10, `${all.length} links`)
    const broken = all.filter(({ to, members }) => !names.has(to.split('.')[0]!) && !members.has(to))
    assert.equal(
      broken.map(({ at, to }) => `${at} links to ${to}`),
      [],
    )
  } finally {
    api.close()
  }
})

test.run()
