{
  "targets": [{
    "target_name": "mtransllama",
    "sources": ["<!@(node -p \"['binding','core','instruments','kernels/cpu','ops','ranks'].flatMap(d => require('fs').readdirSync('native/' + d).filter(f => f.endsWith('.cc') && !f.startsWith('cuda_')).map(f => 'native/' + d + '/' + f)).join(' ')\")"],
    "include_dirs": ["native", "<!@(node scripts/node-api.mjs)"],
    "defines": ["NAPI_VERSION=8", "NODE_ADDON_API_CPP_EXCEPTIONS", "NODE_API_SWALLOW_UNTHROWABLE_EXCEPTIONS"],
    "cflags!": ["-fno-exceptions"],
    "cflags_cc!": ["-fno-exceptions", "-fno-rtti", "-std=gnu++17"],
    "cflags_cc": ["-std=c++20", "-O3", "-fvisibility=hidden", "-Wall", "-Wextra", "-fno-math-errno", "-ffp-contract=off", "-pthread"],
    "ldflags": ["-pthread", "-Wl,--version-script=<(module_root_dir)/native/exports.map", "-Wl,--gc-sections"],
    "xcode_settings": {
      "GCC_ENABLE_CPP_EXCEPTIONS": "YES",
      "CLANG_CXX_LANGUAGE_STANDARD": "c++20",
      "MACOSX_DEPLOYMENT_TARGET": "11.0",
      "OTHER_CPLUSPLUSFLAGS": ["-O3", "-fno-math-errno", "-ffp-contract=off"]
    },
    "msvs_settings": { "VCCLCompilerTool": { "ExceptionHandling": 1, "AdditionalOptions": ["/std:c++20"] } }
  }]
}
