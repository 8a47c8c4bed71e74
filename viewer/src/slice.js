// How a slice is drawn: the base, what NiiVue laid over it, and labels on top of both, filled or as outlines.
// NiiVue's own outlines are those of the volume, which fill a slice that runs along a border of labels. Here a place is
// on an outline where the label a line's width away in the picture is another. `drawRimOpacity` below 0: filled.
// (One uniform to a line: NiiVue finds no more.)
export const sliceShader = (width) => `#version 300 es
precision highp int;
precision highp float;
uniform highp sampler3D volume;
uniform highp sampler3D overlay;
uniform highp sampler3D drawing;
uniform highp sampler2D colormap;
uniform float overlays;
uniform float opacity;
uniform float drawOpacity;
uniform float drawRimOpacity;
in vec3 texPos;
out vec4 color;

int labelAt(vec3 place) {
  ivec3 size = textureSize(drawing, 0);
  ivec3 voxel = clamp(ivec3(floor(place * vec3(size))), ivec3(0), size - 1);
  return int(texelFetch(drawing, voxel, 0).r * 255.0 + 0.5);
}

void main() {
  color = vec4(texture(volume, texPos).rgb, opacity);
  if (overlays > 0.0) {
    vec4 over = texture(overlay, texPos);
    float alpha = color.a + over.a * (1.0 - color.a);
    if (alpha > 0.0) color = vec4(mix(color.rgb, over.rgb, over.a / alpha), alpha);
  }
  vec3 right = ${width.toFixed(1)} * dFdx(texPos), up = ${width.toFixed(1)} * dFdy(texPos);
  int label = labelAt(texPos);
  if (label == 0) return;
  float shown = drawOpacity;
  if (drawRimOpacity >= 0.0) {
    bool same = labelAt(texPos + right) == label && labelAt(texPos - right) == label
      && labelAt(texPos + up) == label && labelAt(texPos - up) == label;
    shown = same ? 0.0 : drawRimOpacity;
  }
  vec4 ink = texelFetch(colormap, ivec2(label, textureSize(colormap, 0).y - 1), 0);
  color = vec4(mix(color.rgb, ink.rgb, shown * ink.a), max(color.a, shown * ink.a));
}`
