import { writeVideo, toYuv } from './videos.js'
import * as L from 'node-av/lib'
import * as AV from 'node-av/constants'
const p='/tmp/exp/a.mp4'
L.Log.setLevel(AV.AV_LOG_QUIET)
for (const matrix of ['bt601','bt709','unspecified'] as const) for (const fullRange of [false,true]) for (const subsampled of [true,false]) {
const want=[200,40,90] as const
await writeVideo(p, Array.from({length:30},()=>want), {matrix, fullRange, subsampled, rotation:90, bFrames:2})
const f=new L.FormatContext()
let r=await f.openInput(p); if(r<0) throw 1
await f.findStreamInfo()
const s=f.streams[0]!
const cc=new L.CodecContext(); const codec=L.Codec.findDecoder(s.codecpar.codecId)!
cc.allocContext3(codec); cc.parametersToContext(s.codecpar); cc.pktTimebase=s.timeBase
await cc.open2(codec)
const pk=new L.Packet(); pk.alloc(); const fr=new L.Frame(); fr.alloc()
let n=0
for(;;){ r=await f.readFrame(pk); if(r<0) break; await cc.sendPacket(pk); pk.unref(); r=await cc.receiveFrame(fr); if(r>=0) break }
const sws=new L.SoftwareScaleContext(); sws.allocContext()
const dst=new L.Frame(); dst.alloc(); dst.width=fr.width; dst.height=fr.height; dst.format=AV.AV_PIX_FMT_RGB24
dst.colorSpace=AV.AVCOL_SPC_RGB; dst.colorRange=AV.AVCOL_RANGE_JPEG; dst.colorPrimaries=fr.colorPrimaries; dst.colorTrc=fr.colorTrc
dst.getBuffer()
r=await sws.scaleFrame(dst, fr)
const b=dst.toBuffer()
console.log(matrix,fullRange,subsampled,r, fr.colorSpace, fr.colorRange, fr.pts, s.startTime, s.duration, f.duration, dst.linesize, b.length, [...b.subarray(0,3)], toYuv(want, matrix==='unspecified'?'bt601':matrix, fullRange), s.codecpar.getCodedSideData(AV.AV_PKT_DATA_DISPLAYMATRIX)?.toString('hex').slice(0,40), !!fr.getSideData(AV.AV_FRAME_DATA_DISPLAYMATRIX))
}
