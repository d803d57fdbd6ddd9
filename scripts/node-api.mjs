// Folders of Node-API's headers, for compilers: the development packages of a clone, or the copies that `npm pack` puts
// beside the compiled code, so that a build from source installs nothing. As a program it prints them, for binding.gyp.
import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'
import { argv } from 'node:process'
import { fileURLToPath } from 'node:url'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
/** Where `npm pack` puts the headers. */
export const packed = join(root, 'dist', 'node-api')

/** Node-API in C, then its C++ wrapper. */
export function nodeApi() {
  try {
    const { resolve } = createRequire(import.meta.url)
    return [join(dirname(resolve('node-api-headers')), 'include'), dirname(resolve('node-addon-api/package.json'))]
  } catch (error) {
    if (existsSync(packed)) return [packed]
    throw error
  }
}

if (argv[1] === fileURLToPath(import.meta.url))
  console.log(
    nodeApi()
      .map((folder) => `"${folder}"`)
      .join(' '),
  )
