/** What the machine for pickles (pickle.ts) builds of torch: tensors over storages in a file. */
import { show } from '../errors.js'
import { sizeOf } from '../shape.js'
import {
  Global,
  isCount,
  isShape,
  isTuple,
  orderedDict,
  refuse,
  TorchStorage,
  TorchTensor,
  type PickleValue,
} from './pickle-values.js'
import type { Dtype } from './safetensors.js'

const STORAGE_DTYPES = {
  Float: 'F32',
  Half: 'F16',
  BFloat16: 'BF16',
  Double: 'F64',
  Long: 'I64',
  Int: 'I32',
  Short: 'I16',
  Char: 'I8',
  Byte: 'U8',
  Bool: 'BOOL',
} as const satisfies Record<string, Dtype>

/** The element type of each class of storages. */
export const STORAGES = new Map<string, Dtype>(
  Object.entries(STORAGE_DTYPES).map(([name, dtype]) => [`torch.${name}Storage`, dtype]),
)

/** The functions and classes of torch that a pickle may name. */
export function torchGlobals(): Map<string, Global> {
  const dtypes = 'float32 float16 bfloat16 float64 int64 int32 int16 int8 uint8 bool'.split(' ')
  const globals = [
    orderedDict(),
    new Global('torch.Size', ([items, ...rest]) =>
      isShape(items) && !rest.length ? items : refuse('torch.Size gets something else than sizes'),
    ),
    new Global('torch._utils._rebuild_tensor_v2', rebuildTensor),
    new Global('torch._utils._rebuild_parameter', ([tensor]) =>
      tensor instanceof TorchTensor ? tensor : refuse('a parameter is made of something else than a tensor'),
    ),
    ...Object.keys(STORAGE_DTYPES).map((name) => new Global(`torch.${name}Storage`)),
    ...dtypes.map((name) => new Global(`torch.${name}`)),
  ]
  return new Map(globals.map((global) => [global.name, global]))
}

function rebuildTensor(args: readonly PickleValue[]): TorchTensor {
  const [storage, offset, shape, strides, , hooks, metadata = null] = args
  const bad = (what: string): never => refuse(`a tensor ${what}`)
  if (args.length < 6 || args.length > 7 || !(storage instanceof TorchStorage)) return bad('has no storage')
  if (!isCount(offset) || !isShape(shape) || !isTuple(strides) || !strides.every(isCount))
    return bad('has an offset, sizes or strides that are not whole numbers')
  if (strides.length !== shape.length) bad(`has ${shape.length} sizes and ${strides.length} strides`)
  if (!(hooks instanceof Map) || hooks.size) bad('has hooks')
  if (metadata !== null && !(metadata instanceof Map && !metadata.size)) bad('has metadata')
  const empty = sizeOf(shape) === 0
  const last = offset + shape.reduce((n, size, i) => n + (size - 1) * (strides as number[])[i]!, 0)
  if (empty ? offset > storage.size : last >= storage.size)
    bad(`reaches to element ${last} of the storage ${show(storage.key)}, which has ${storage.size}`)
  return new TorchTensor(storage, offset, shape, strides as readonly number[])
}
