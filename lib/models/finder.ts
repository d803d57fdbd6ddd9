/**
 * Where the builders of the model's parts get their weights. Each tensor is asked for by its name, as in the Hugging
 * Face releases, and its shape: over the tensors of a checkpoint the answer is the tensor, and {@link recorded} lists
 * what is asked for, which is what a checkpoint must hold.
 */
import { invalid } from '../errors.js'
import type { Linear, Norm, Pack } from '../nn/layers.js'
import { Tensor } from '../tensor/tensor.js'

/** The tensors of a checkpoint, by canonical name. */
export type Weights = ReadonlyMap<string, Tensor>

/** Sees named intermediate results: `embeddings`, `layer.0.spatial`, `vision.hidden.1`, … For tests and for study. */
export type Observe = (name: string, value: Tensor) => void

/** A tensor that a builder asks for. */
export interface Wanted {
  name: string
  shape: number[]
  /** May be absent: the output matrix where it is tied to the embedding. */
  optional?: true
  /** Its number of rows is a vocabulary's and is taken from the file, whatever the configuration says. */
  rows?: true
  /**
   * The tensor that holds it and others, behind each other in memory, where weights are laid out so: one product does
   * for linear layers that read one input.
   */
  pack?: string
}
type Marks = Pick<Wanted, 'optional' | 'rows' | 'pack'>

/** Asks for tensors below a prefix. */
export class Finder {
  constructor(
    /** Gives a tensor, or undefined where there is none of that name. */
    readonly source: (wanted: Wanted) => Tensor | undefined,
    readonly prefix = '',
  ) {}

  at(name: string): Finder {
    return new Finder(this.source, `${this.prefix}${name}.`)
  }
  /** A tensor, which must be there. */
  get(name: string, shape: number[], marks: Omit<Marks, 'optional'> = {}): Tensor {
    const t = this.source({ name: this.prefix + name, shape, ...marks })
    if (!t) throw invalid('weights', `a tensor named ${this.prefix}${name}`, 'a checkpoint without it')
    return t
  }
  /** A tensor that may be absent. */
  find(name: string, shape: number[], marks: Omit<Marks, 'optional'> = {}): Tensor | undefined {
    return this.source({ name: this.prefix + name, shape, optional: true, ...marks })
  }
  /** Weight [out,into], and bias [out] unless there is none. */
  linear(
    name: string,
    out: number,
    into: number,
    { bias = true, pack }: { bias?: boolean; pack?: string } = {},
  ): Linear {
    const part = (kind: string, shape: number[]): Tensor =>
      this.get(`${name}.${kind}`, shape, pack === undefined ? {} : { pack: `${this.prefix}${pack}.${kind}` })
    return { weight: part('weight', [out, into]), bias: bias ? part('bias', [out]) : undefined }
  }
  /** Linear layers of one input: the name of each with its width, and the name of all of them as one. */
  pack(name: string, widths: Record<string, number>, into: number, { bias = true } = {}): Pack {
    const parts = Object.entries(widths).map(([part, out]) => this.linear(part, out, into, { bias, pack: name }))
    const out = Object.values(widths).reduce((a, b) => a + b, 0)
    const pack = `${this.prefix}${name}`
    const weight = this.find(`${name}.weight`, [out, into], { pack: `${pack}.weight` })
    return { parts, packed: weight && { weight, bias: bias ? this.get(`${name}.bias`, [out]) : undefined } }
  }
  norm(name: string, width: number, eps: number): Norm {
    return { weight: this.get(`${name}.weight`, [width]), bias: this.get(`${name}.bias`, [width]), eps }
  }
}

/** Finds the tensors of a checkpoint. Throws where one has another shape than its builder asks for. */
export function finder(weights: Weights): Finder {
  return new Finder(({ name, shape, rows }) => {
    const t = weights.get(name)
    const skip = Number(rows ?? false)
    if (t && `${t.shape.slice(skip)}` !== `${shape.slice(skip)}`)
      throw invalid(name, `shape [${rows ? ['rows', ...shape.slice(1)] : shape}]`, t.shape)
    return t
  })
}

/** The tensors that `build` asks for, in order. */
export function recorded(build: (at: Finder) => unknown): Wanted[] {
  const list: Wanted[] = []
  const source = (wanted: Wanted): Tensor | undefined => {
    // A pack itself is made when weights are loaded, and is in no file.
    if (wanted.pack === wanted.name) return undefined
    list.push(wanted)
    // A tensor without memory: builders may look at its shape; whatever would compute with it throws.
    const { shape } = wanted
    return wanted.optional ? undefined : (Object.assign(Object.create(Tensor.prototype), { shape }) as Tensor)
  }
  build(new Finder(source))
  return list
}
