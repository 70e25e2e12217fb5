// Draws robots with three.js: one scene, posed anew for each picture, drawn into the canvas of whoever asks.

import * as THREE from "three";
import { getBytes } from "./api";

interface Geom {
  body: number;
  kind: string;
  size: [number, number, number];
  position: [number, number, number];
  quaternion: [number, number, number, number];
  rgba: [number, number, number, number];
  mesh?: number;
  lamp?: number;
  lit?: [number, number, number, number];
}

interface Description {
  bodies: string[];
  geoms: Geom[];
  meshes: { first_vertex: number; vertices: number; first_face: number; faces: number }[];
  camera: { position: number[]; quaternion: number[]; fov_deg: number };
}

export interface View {
  /** Angles and distance of the eye around the table. */
  azimuth: number;
  elevation: number;
  distance: number;
}

export const FRONT: View = { azimuth: 0, elevation: 0.62, distance: 1.15 };
const TARGET = new THREE.Vector3(0.38, 0, 0.12);

/** Show a picture in the middle of a canvas, as large as it fits. */
export function drawPicture(canvas: HTMLCanvasElement, picture: ImageBitmap): void {
  const context = canvas.getContext("2d")!;
  const scale = Math.min(canvas.width / picture.width, canvas.height / picture.height);
  const [width, height] = [picture.width * scale, picture.height * scale];
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.drawImage(picture, (canvas.width - width) / 2, (canvas.height - height) / 2, width, height);
}

export class Stage {
  #renderer: THREE.WebGLRenderer;
  #scene = new THREE.Scene();
  #camera = new THREE.PerspectiveCamera(45, 1, 0.05, 10);
  #bodies: THREE.Group[] = [];
  #lamps: { mesh: THREE.Mesh; lamp: number; lit: THREE.Material; unlit: THREE.Material }[] = [];

  static async load(): Promise<Stage> {
    return new Stage(await getBytes("/api/scene"));
  }

  private constructor(data: ArrayBuffer) {
    this.#renderer = new THREE.WebGLRenderer({ antialias: true, alpha: true, preserveDrawingBuffer: true });
    this.#renderer.setPixelRatio(1);
    const headLength = new DataView(data).getUint32(0, true);
    const description = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, headLength))) as Description;
    const vertexCount = description.meshes.reduce((sum, mesh) => sum + mesh.vertices, 0);
    const vertices = new Float32Array(data, 4 + headLength, 3 * vertexCount);
    const faces = new Uint32Array(data, 4 + headLength + 12 * vertexCount);
    const meshes = description.meshes.map((mesh) => {
      const geometry = new THREE.BufferGeometry();
      const own = vertices.slice(3 * mesh.first_vertex, 3 * (mesh.first_vertex + mesh.vertices));
      geometry.setAttribute("position", new THREE.BufferAttribute(own, 3));
      geometry.setIndex(
        new THREE.BufferAttribute(faces.slice(3 * mesh.first_face, 3 * (mesh.first_face + mesh.faces)), 1),
      );
      const flat = geometry.toNonIndexed();
      flat.computeVertexNormals();
      return flat;
    });
    this.#bodies = description.bodies.map(() => new THREE.Group());
    for (const body of this.#bodies) this.#scene.add(body);
    for (const geom of description.geoms) this.#addGeom(geom, meshes);
    this.#scene.add(new THREE.HemisphereLight(0xffffff, 0x8a8f98, 2.0));
    const sun = new THREE.DirectionalLight(0xffffff, 1.8);
    sun.position.set(1, 0.6, 2);
    this.#scene.add(sun);
    this.#camera.up.set(0, 0, 1);
  }

  #addGeom(geom: Geom, meshes: THREE.BufferGeometry[]): void {
    const shape = geom.kind === "mesh" ? meshes[geom.mesh!] : primitive(geom);
    const body = this.#bodies[geom.body];
    if (!shape || !body) return;
    // The floor takes on the page's own shade, light or dark.
    const unlit = geom.kind === "plane" ? material([0.5, 0.52, 0.56, 0.18]) : material(geom.rgba);
    const mesh = new THREE.Mesh(shape, unlit);
    mesh.position.set(...geom.position);
    const [w, x, y, z] = geom.quaternion;
    mesh.quaternion.set(x, y, z, w);
    body.add(mesh);
    if (geom.lamp !== undefined && geom.lit) this.#lamps.push({ mesh, lamp: geom.lamp, unlit, lit: material(geom.lit) });
  }

  /** Draw one robot's poses into a canvas, at the canvas' own size. */
  draw(canvas: HTMLCanvasElement, poses: Float32Array, lamps: number, view: View = FRONT): void {
    const width = canvas.width;
    const height = canvas.height;
    if (width === 0 || height === 0) return;
    this.#bodies.forEach((body, index) => {
      const at = 7 * index;
      body.position.set(poses[at]!, poses[at + 1]!, poses[at + 2]!);
      body.quaternion.set(poses[at + 4]!, poses[at + 5]!, poses[at + 6]!, poses[at + 3]!);
    });
    for (const { mesh, lamp, lit, unlit } of this.#lamps) mesh.material = (lamps >> lamp) & 1 ? lit : unlit;
    const flat = Math.cos(view.elevation) * view.distance;
    this.#camera.position.set(
      TARGET.x + Math.cos(view.azimuth) * flat,
      TARGET.y + Math.sin(view.azimuth) * flat,
      TARGET.z + Math.sin(view.elevation) * view.distance,
    );
    this.#camera.lookAt(TARGET);
    this.#camera.aspect = width / height;
    this.#camera.updateProjectionMatrix();
    const size = this.#renderer.getSize(new THREE.Vector2());
    if (size.x !== width || size.y !== height) this.#renderer.setSize(width, height, false);
    this.#renderer.render(this.#scene, this.#camera);
    const context = canvas.getContext("2d");
    context?.clearRect(0, 0, width, height);
    context?.drawImage(this.#renderer.domElement, 0, 0);
  }
}

function material(rgba: [number, number, number, number]): THREE.Material {
  const [r, g, b, a] = rgba;
  return new THREE.MeshLambertMaterial({
    color: new THREE.Color().setRGB(r, g, b, THREE.SRGBColorSpace),
    transparent: a < 1,
    opacity: a,
    depthWrite: a === 1,
    side: a < 1 ? THREE.DoubleSide : THREE.FrontSide,
  });
}

function primitive(geom: Geom): THREE.BufferGeometry | null {
  const [a, b, c] = geom.size;
  switch (geom.kind) {
    case "plane":
      return new THREE.CircleGeometry(0.9, 48);
    case "sphere":
      return new THREE.SphereGeometry(a, 16, 12);
    case "box":
      return new THREE.BoxGeometry(2 * a, 2 * b, 2 * c);
    // three.js lays them along y, MuJoCo along z.
    case "capsule":
      return new THREE.CapsuleGeometry(a, 2 * b, 4, 12).rotateX(Math.PI / 2);
    case "cylinder":
      return new THREE.CylinderGeometry(a, a, 2 * b, 16).rotateX(Math.PI / 2);
    default:
      return null;
  }
}
