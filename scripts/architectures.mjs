// The lists of native/architectures.txt, which CMakeLists.txt reads too.
import { readFileSync } from 'node:fs'

const text = readFileSync(new URL('../native/architectures.txt', import.meta.url), 'utf8')
const list = (name) => new RegExp(`^${name} (.*)$`, 'm').exec(text)[1]

/** What tests build, as CMake writes it: the architectures that kernels are tried on, and PTX for what comes after. */
export const tested = list('tested')
/** What releases are built for. */
export const released = list('released')
/** The tested ones as nvcc writes them. */
export const architectures = [...tested.matchAll(/(\d+)-real/g)].map(([, n]) => `sm_${n}`)
