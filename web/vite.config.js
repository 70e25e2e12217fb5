import { defineConfig } from "vite";

// Names without hashes: the built page is committed, and its history should show what changed.
export default defineConfig({
  base: "/",
  build: {
    outDir: "../src/lwd/console/static",
    emptyOutDir: true,
    chunkSizeWarningLimit: 1200,
    modulePreload: { polyfill: false },
    rollupOptions: {
      output: {
        entryFileNames: "assets/console.js",
        chunkFileNames: "assets/[name].js",
        assetFileNames: "assets/[name][extname]",
      },
    },
  },
});
