// Every public name has a docstring, and so has every method of a public class or interface: `npm run docs:api` writes
// the API reference from them. Asks TypeScript's own API, whose version the lock file fixes.
import { fileURLToPath } from 'node:url'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
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

/** Public names without a docstring, as `entry: name (file)`. */
function undocumented(checker: Checker, module: Name, entry: string): { missing: string[]; seen: number } {
  const missing: string[] = []
  let seen = 0
  const inspect = (name: Name, shown: string): void => {
    seen++
    if (!checker.getDocumentationCommentOfSymbol(name).trim())
      missing.push(`${entry}: ${shown} (${name.declarations[0]?.path.slice(root.length)})`)
  }
  for (const exported of checker.getExportsOfModule(module)) {
    const name = exported.flags & SymbolFlags.Alias ? checker.getAliasedSymbol(exported) : exported
    inspect(name, exported.name)
    if (name.flags & (SymbolFlags.Class | SymbolFlags.Interface))
      for (const member of methods(name)) inspect(member, `${exported.name}.${member.name}`)
  }
  return { missing, seen }
}

test('every public name, and every method of one, has a docstring', () => {
  const api = new API({ cwd: root })
  try {
    const [project] = api.updateSnapshot({ openProjects: [`${root}tsconfig.json`] }).getProjects()
    assert.ok(project)
    assert.ok(entries.size >= 1)
    for (const [entry, file] of entries) {
      const source = project.program.getSourceFile(root + file)
      assert.ok(source, `${entry}: package.json names ${file}, which is not there`)
      const module = project.checker.getSymbolAtLocation(source)
      assert.ok(module, `${file} exports nothing`)
      const { missing, seen } = undocumented(project.checker, module, entry)
      assert.ok(seen > 10, `${entry} has ${seen} public names`)
      assert.equal(missing, [])
    }
  } finally {
    api.close()
  }
})

test.run()
