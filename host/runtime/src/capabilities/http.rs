//! `http`: requests from this machine, or through a target's connection.

use wasmtime::component::Resource;
use windlass_model::call::{Call, HttpBody};
use windlass_model::{CallError, Reply, TargetName};

use super::convert::reply;
use crate::bindings::windlass::plugin::values::Part;
use crate::bindings::windlass::plugin::{http, types};
use crate::guest::{BlobEntry, Guest, RequestEntry, Trapped, size};
use crate::limits;

/// The longest exchange that a guest may ask for.
const MAX_TIMEOUT_MS: u32 = 10 * 60 * 1000;
/// Servers refuse more than a hundred or so.
const MAX_HEADERS: usize = 100;

impl http::Host for Guest {}

impl http::HostRequest for Guest {
    async fn new(&mut self, method: String, url: Vec<Part>) -> Trapped<Resource<RequestEntry>> {
        let url = self.text(url)?;
        let bytes = method.len() + size(&url);
        self.hold(bytes)?;
        let mut entry = RequestEntry::new(method, url);
        entry.held = bytes;
        Ok(self.table.push(entry)?)
    }

    async fn header(
        &mut self,
        request: Resource<RequestEntry>,
        name: String,
        value: Vec<Part>,
    ) -> Trapped<()> {
        let value = self.text(value)?;
        if self.table.get(&request)?.call.headers.len() >= MAX_HEADERS {
            return Err(self.reached(format!("its limit of {MAX_HEADERS} headers in a request")));
        }
        let bytes = name.len() + size(&value);
        self.hold(bytes)?;
        let entry = self.table.get_mut(&request)?;
        entry.held += bytes;
        entry.call.headers.push((name, value));
        Ok(())
    }

    async fn body(&mut self, request: Resource<RequestEntry>, body: Vec<Part>) -> Trapped<()> {
        let body = self.text(body)?;
        let bytes = size(&body);
        self.hold(bytes)?;
        let entry = self.table.get_mut(&request)?;
        entry.held += bytes;
        entry.call.body = HttpBody::Text(body);
        Ok(())
    }

    async fn body_blob(
        &mut self,
        request: Resource<RequestEntry>,
        body: Resource<BlobEntry>,
    ) -> Trapped<()> {
        let body = self.blob_reference(&body)?;
        self.table.get_mut(&request)?.call.body = HttpBody::Blob(body);
        Ok(())
    }

    async fn timeout_ms(
        &mut self,
        request: Resource<RequestEntry>,
        timeout_ms: u32,
    ) -> Trapped<()> {
        self.table.get_mut(&request)?.call.timeout_ms = timeout_ms.clamp(1, MAX_TIMEOUT_MS);
        Ok(())
    }

    async fn max_redirects(&mut self, request: Resource<RequestEntry>, count: u8) -> Trapped<()> {
        self.table.get_mut(&request)?.call.max_redirects = count.min(10);
        Ok(())
    }

    async fn via(&mut self, request: Resource<RequestEntry>, target: String) -> Trapped<()> {
        self.table.get_mut(&request)?.call.via = Some(TargetName::new(target));
        Ok(())
    }

    async fn max_body(&mut self, request: Resource<RequestEntry>, bytes: u32) -> Trapped<()> {
        self.table.get_mut(&request)?.call.max_body = bytes.min(limits::MAX_HTTP_BODY);
        Ok(())
    }

    async fn send(
        &mut self,
        request: Resource<RequestEntry>,
    ) -> Trapped<Result<http::Response, types::Error>> {
        let call = self.table.get(&request)?.call.clone();
        if call.method.is_empty() || !call.method.bytes().all(|byte| byte.is_ascii_uppercase()) {
            return Ok(Err(CallError::invalid(
                "http.method",
                format!("{:?} is no HTTP method", call.method),
            )
            .hint("methods are upper case: GET, POST")
            .into()));
        }
        let answer = self.invoke(Call::Http(call)).await?;
        Ok(
            reply!(answer, "http.send", Reply::Response(response) => http::Response {
                status: response.status,
                headers: response.headers,
                body: response.body,
                truncated: response.truncated,
            }),
        )
    }

    async fn drop(&mut self, request: Resource<RequestEntry>) -> Trapped<()> {
        let entry = self.table.delete(request)?;
        self.let_go(entry.held);
        Ok(())
    }
}
