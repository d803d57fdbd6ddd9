/** YAML files (JSON is YAML too). */
import { parseDocument } from 'yaml'
import { InputError } from '../errors.js'
import { readText, unreadable } from './text.js'

/**
 * Reads one document; a key that is there twice and a tag that is not known are errors. @throws InputError naming the
 * file, and the line where it is not YAML
 *
 * @param missing the advice for a file that is not there
 */
export async function readYaml(path: string, missing = ''): Promise<unknown> {
  const text = await readText(path, (error) => unreadable(path, error, missing))
  const document = parseDocument(text, { logLevel: 'error' })
  const fail = (error: Error, hint = ''): InputError =>
    new InputError(`${path}: not YAML: ${error.message.split('\n')[0]!.replace(/[.:]$/, '')}${hint}.`, { cause: error })
  const [fault] = [...document.errors, ...document.warnings]
  if (fault) throw fail(fault)
  try {
    return document.toJS() as unknown
  } catch (error) {
    const alias = /^Unresolved alias/.test((error as Error).message)
    throw fail(error as Error, alias ? '; quote a value that begins with *' : '')
  }
}
