/** The files of weights of a checkpoint folder: safetensors or torch's, one or several with their index. */
import { existsSync, statSync } from 'node:fs'
import { readdir } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { InputError, invalid } from '../errors.js'
import { readJsonObject } from '../files/json.js'
import { readHeader, type SafetensorsHeader } from '../files/safetensors.js'
import { brokenLink } from '../files/text.js'
import { readTorch } from '../files/torch.js'

/** Also where it is a link whose target is absent, so that reading it says so. */
const isThere = (path: string): boolean => existsSync(path) || brokenLink(path) !== undefined

/** The forms of a folder's weights, the preferred first: one file, or several that an index names. */
const FORMS = ['model.safetensors', 'model.safetensors.index.json', 'pytorch_model.bin', 'pytorch_model.bin.index.json']

/** The file of weights or the index of a folder; undefined where there is none. */
const weightsOf = (folder: string): string | undefined =>
  FORMS.map((name) => join(folder, name)).find((path) => isThere(path))

/** Whether a folder holds weights. */
export const hasWeights = (folder: string): boolean => weightsOf(folder) !== undefined

const header = (path: string): Promise<SafetensorsHeader> =>
  path.endsWith('.safetensors') ? readHeader(path) : readTorch(path)

/**
 * The headers of the weight files of a folder, or of one file of torch.
 *
 * @param isNeeded whether the model needs the tensor of a name; a shard without any may be absent
 */
export async function openFiles(at: string, isNeeded: (stored: string) => boolean): Promise<SafetensorsHeader[]> {
  if (existsSync(at) && statSync(at).isFile()) return [await header(at)]
  const weights = weightsOf(at)
  if (weights?.endsWith('.index.json')) return openShards(at, weights, isNeeded)
  if (weights !== undefined) return [await header(weights)]
  const others = (await readdir(at)).filter((name) => /\.(bin|pth|pt|ckpt|h5|msgpack)$/.test(name))
  if (others.length === 0)
    throw new InputError(
      `${at}: there is no model.safetensors and no model.safetensors.index.json in this folder; download the whole model.`,
    )
  throw new InputError(
    `${at}: the weights are there as ${others.slice(0, 3).join(', ')} alone; "mtransllama convert" reads .pth files, ` +
      'and of other files pytorch_model.bin is read as it is.',
  )
}

async function openShards(
  folder: string,
  index: string,
  isNeeded: (stored: string) => boolean,
): Promise<SafetensorsHeader[]> {
  const { weight_map: map } = await readJsonObject(index)
  if (
    typeof map !== 'object' ||
    map === null ||
    Object.values(map).some((file) => typeof file !== 'string' || file !== basename(file) || file === '')
  ) {
    throw invalid(`${index}: weight_map`, 'an object of tensor names and names of files in the same folder', map)
  }
  const weightMap = map as Record<string, string>
  const all = [...new Set(Object.values(weightMap))].sort()
  const wanted = new Set(Object.entries(weightMap).flatMap(([tensor, file]) => (isNeeded(tensor) ? [file] : [])))
  const absent = all.filter((name) => wanted.has(name) && !isThere(join(folder, name)))
  const names = all.filter((name) => wanted.has(name) || existsSync(join(folder, name)))
  if (absent.length)
    throw new InputError(
      `${folder}: ${absent.length} of the ${all.length} files named in the index are not there: ${absent.slice(0, 10).join(', ')}.`,
    )
  const headers = await Promise.all(names.map((name) => header(join(folder, name))))

  const home = new Map<string, string>()
  for (const [i, header] of headers.entries()) {
    for (const tensor of header.entries.keys()) {
      const other = home.get(tensor)
      if (other !== undefined)
        throw new InputError(`${folder}: the tensor ${tensor} is in two files, ${other} and ${names[i]}.`)
      home.set(tensor, names[i]!)
    }
  }
  for (const [tensor, file] of Object.entries(weightMap)) {
    if (home.get(tensor) === file || !isNeeded(tensor)) continue
    const where = home.has(tensor) ? `, but it is in ${home.get(tensor)}` : ', but it is in none of the files'
    throw new InputError(`${index}: it says that the tensor ${tensor} is in ${file}${where}.`)
  }
  return headers
}
