/** YAML files (JSON is YAML too). */
import { parse, YAMLParseError } from 'yaml'
import { InputError } from '../errors.js'
import { readText } from './text.js'

/**
 * Reads one document; a key that is there twice is an error. @throws InputError naming the file, and the line where it
 * is not YAML
 */
export async function readYaml(path: string): Promise<unknown> {
  const text = await readText(path)
  try {
    return parse(text, { logLevel: 'error' })
  } catch (error) {
    if (error instanceof YAMLParseError)
      throw new InputError(`${path}: not YAML: ${error.message.split('\n')[0]!.replace(/[.:]$/, '')}.`, {
        cause: error,
      })
    throw error
  }
}
