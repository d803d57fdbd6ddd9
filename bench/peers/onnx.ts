/**
 * Writes ONNX models. Weights stay in the safetensors file that they are in: a model names the file, which must lie in
 * the same folder, and the bytes of each.
 */
import { readFileSync } from 'node:fs'
import { basename } from 'node:path'
import type { SafetensorsHeader } from '../../lib/files/safetensors.js'

/** The operators' versions: 20 has Gelu. */
const OPSETS = [
  { domain: '', version: 20 },
  { domain: 'com.microsoft', version: 1 },
]
const FLOAT = 1
const INT64 = 7

export type Attributes = Record<string, number | number[] | { float: number }>

/** A graph of float32 tensors whose shapes are all known. Values are named by what made them. */
export class Graph {
  private readonly node: object[] = []
  private readonly initializer: object[] = []
  private readonly input: object[] = []
  private readonly output: object[] = []
  private readonly constants = new Map<string, string>()

  constructor(private readonly tensors: SafetensorsHeader) {}

  /** A tensor of the file that is an input of each call. */
  feed(name: string): string {
    return this.once(name, () => this.input.push(value(name, this.shapeOf(name))))
  }

  /** A tensor of the file that is part of the model. */
  weight(name: string): string {
    return this.once(name, () => {
      const { shape, begin, end } = this.tensors.entries.get(name)!
      const external_data = Object.entries({
        location: basename(this.tensors.path),
        offset: `${begin}`,
        length: `${end - begin}`,
      })
      this.initializer.push({
        name,
        dims: shape,
        data_type: FLOAT,
        data_location: 1,
        external_data: external_data.map(([key, value]) => ({ key, value })),
      })
    })
  }

  ints(values: number[]): string {
    const name = `ints ${values}`
    return this.once(name, () =>
      this.initializer.push({ name, dims: [values.length], data_type: INT64, int64_data: values }),
    )
  }

  float(number: number): string {
    const name = `float ${number}`
    return this.once(name, () => this.initializer.push({ name, dims: [], data_type: FLOAT, float_data: [number] }))
  }

  /** The first output of a new node. */
  add(op_type: string, input: string[], attributes: Attributes = {}, domain = ''): string {
    const name = `${op_type} ${this.node.length}`
    const attribute = Object.entries(attributes).map(([name, of]) =>
      typeof of === 'number'
        ? { name, i: of, type: 2 }
        : Array.isArray(of)
          ? { name, ints: of, type: 7 }
          : { name, f: of.float, type: 1 },
    )
    this.node.push({ name, op_type, domain, input, output: [name], attribute })
    return name
  }

  reshape(x: string, shape: number[]): string {
    return this.add('Reshape', [x, this.ints(shape)])
  }

  transpose(x: string, perm: number[]): string {
    return this.add('Transpose', [x], { perm })
  }

  /** The value x is an output of the model, under this name. */
  give(name: string, x: string, shape: number[]): void {
    this.node.push({ name, op_type: 'Identity', domain: '', input: [x], output: [name], attribute: [] })
    this.output.push(value(name, shape))
  }

  shapeOf(name: string): number[] {
    const entry = this.tensors.entries.get(name)
    if (!entry) throw new Error(`${this.tensors.path} has no tensor ${name}`)
    return entry.shape
  }

  async encode(): Promise<Uint8Array> {
    const { node, initializer, input, output } = this
    const graph = { name: 'case', node, initializer, input, output }
    const Model = await model()
    return Model.encode(
      Model.fromObject({ ir_version: 9, producer_name: 'mtransllama', opset_import: OPSETS, graph }),
    ).finish()
  }

  private once(name: string, make: () => void): string {
    if (!this.constants.has(name)) make()
    this.constants.set(name, name)
    return name
  }
}

interface MessageType {
  fromObject(value: object): object
  encode(message: object): { finish(): Uint8Array }
  decode(bytes: Uint8Array): object
  toObject(message: object, options: object): any
}

/** ONNX's outermost message. */
export async function model(): Promise<MessageType> {
  const protobuf = await import('protobufjs' as string) // a peer's dependency: not there for the compiler
  const schema = readFileSync(new URL('onnx.proto', import.meta.url), 'utf8')
  return (protobuf.default ?? protobuf).parse(schema, { keepCase: true }).root.lookupType('Model')
}

function value(name: string, shape: number[]): object {
  return {
    name,
    type: { tensor_type: { elem_type: FLOAT, shape: { dim: shape.map((dim_value) => ({ dim_value })) } } },
  }
}
